# build_start.sh REPOSITORY WORK_DIR SHA VERSION RELEASE_ID NODE_BIN_DIR
# Starts the build of a commit, detached; a build of the same commit that runs or is done is left alone.
_job=$2/$3
mkdir -p "$_job"
[ ! -f "$_job/result.json" ] || { echo done; exit 0; }
cat >"$_job/build.sh.$$" <<'BUILD'
set -eu
umask 022
_repository=$1 _job=$2 _sha=$3 _version=$4 _release_id=$5 _node_bin=$6
trap 'code=$?; [ "$code" -eq 0 ] || echo "$code" >"$_job/failed"' EXIT
PATH=$_node_bin:$PATH
export PATH
rm -rf "$_job/tree" "$_job/failed"
mkdir "$_job/tree"
git --git-dir "$_repository" archive "$_sha" | tar -x -C "$_job/tree"
cd "$_job/tree"
echo "npm ci"
npm ci --no-audit --no-fund --cache "$_job/../npm-cache"
echo "npm run build"
RELEASE_VERSION=$_version RELEASE_SHA=$_sha RELEASE_ID=$_release_id npm run build
echo "npm prune"
npm prune --omit=dev --no-audit --no-fund --cache "$_job/../npm-cache"
_time=$(git --git-dir "$_repository" show -s --format=%ct "$_sha")
# Sorted, and with the commit's time, so that a second build of the commit gives the same bytes.
tar --sort=name --mtime="@$_time" --owner=0 --group=0 --numeric-owner -cf - . | gzip -n >"$_job/artifact.tar.gz.part"
mv "$_job/artifact.tar.gz.part" "$_job/artifact.tar.gz"
_migrations=$(for _file in migrations/*.sql; do
  [ -f "$_file" ] || continue
  printf '%s %s\n' "$(basename "$_file")" "$(sed -n 's/^-- *phase: *\([a-z]*\).*/\1/p' "$_file" | head -n 1)"
done)
MIGRATIONS=$_migrations node -e '
  const fs = require("fs"), crypto = require("crypto")
  const [artifact, out, sha, version, id] = process.argv.slice(1)
  const bytes = fs.readFileSync(artifact)
  const migrations = process.env.MIGRATIONS.split("\n").filter(Boolean).map((line) => {
    const [file, phase] = line.split(" ")
    return { number: parseInt(file, 10), name: file, phase }
  })
  fs.writeFileSync(out + ".part", JSON.stringify({
    version, sha, release_id: id, sha256: crypto.createHash("sha256").update(bytes).digest("hex"),
    size_bytes: bytes.length, node_version: process.version.slice(1),
    schema_revision: migrations.reduce((highest, m) => Math.max(highest, m.number), 0), migrations,
  }))
  fs.renameSync(out + ".part", out)
' "$_job/artifact.tar.gz" "$_job/result.json" "$_sha" "$_version" "$_release_id"
rm -rf "$_job/tree"
echo built
BUILD
mv "$_job/build.sh.$$" "$_job/build.sh"
# The detached build inherits the lock, so that there is no moment without a holder: whoever comes second finds it
# running. A look at the build's state (build_status.sh) holds the lock for a moment too, hence the second.
exec 8>>"$_job/lock"
if flock -w 1 8; then
  rm -f "$_job/failed"
  setsid sh "$_job/build.sh" "$1" "$_job" "$3" "$4" "$5" "$6" >"$_job/log" 2>&1 </dev/null &
  echo started
else
  echo running
fi
