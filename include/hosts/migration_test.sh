# migration_test.sh RELEASES_DIR RELEASE_ID SHA256 SIZE_BYTES NODE_BIN_DIR LOCK_TIMEOUT_MS STATEMENT_TIMEOUT_MS
# Standard input: the artifact's URL, certificates to trust if any, a line "=====", and the settings that lead to a copy
# of the database. Runs the release's pending migrations there, expand first, and prints each with its time and locks.
# Changes nothing that lasts on this host: the release is fetched beside, and removed.
_releases=$1 _id=$2 _sha256=$3 _size=$4 _node=$5/node _lock_ms=$6 _statement_ms=$7
umask 077
mkdir -p "$_releases"
# Named as an installation's, whose next one removes what a kill has left.
_work=$(mktemp -d "$_releases/.install-XXXXXX") || fail "cannot write in $_releases"
trap 'rm -rf "$_work"' EXIT
trap 'exit 129' HUP
trap 'exit 143' TERM
cat >"$_work/input"
sed '1,/^=====$/d' "$_work/input" >"$_work/test.env"
sed -n '2,/^=====$/p' "$_work/input" | sed '/^=====$/d' >"$_work/ca.pem"
[ -s "$_work/test.env" ] || fail "no settings came for the test"
_release=$_releases/$_id
if [ ! -f "$_release/release.json" ] || [ "$(cat "$_release/.artifact-sha256" 2>/dev/null)" != "$_sha256" ]; then
  _free_kib=$(df -Pk "$_releases" | awk 'NR == 2 {print $4}')
  _need_kib=$((_size * 8 / 1024 + 10240))
  [ "$_free_kib" -ge "$_need_kib" ] || fail "disk full: $_free_kib KiB free in $_releases, $_need_kib KiB needed"
  if [ -s "$_work/ca.pem" ]; then set -- --cacert "$_work/ca.pem"; else set --; fi
  printf 'url = "%s"\n' "$(head -n 1 "$_work/input")" |
    curl -sS --fail --retry 2 --connect-timeout 5 -m 240 "$@" -o "$_work/artifact.tar.gz" -K - ||
    fail "the artifact could not be fetched"
  _got=$(sha256sum "$_work/artifact.tar.gz" | cut -d' ' -f1)
  [ "$_got" = "$_sha256" ] || fail "the artifact's SHA-256 is $_got, expected $_sha256"
  _release=$_work/release
  mkdir "$_release"
  tar -xzf "$_work/artifact.tar.gz" -C "$_release" || fail "the artifact could not be unpacked"
fi
cd "$_release"
for _phase in expand contract; do
  printf '== %s\n' "$_phase"
  _status=0
  "$_node" bin/migrate.js --settings "$_work/test.env" --json --locks --lock-timeout-ms "$_lock_ms" \
    --statement-timeout-ms "$_statement_ms" up --phase "$_phase" 2>"$_work/said" || _status=$?
  printf '== %s_status\n%s\n' "$_phase" "$_status"
  if [ "$_status" -ne 0 ]; then
    printf '== said\n'
    tail -n 3 "$_work/said"
    break
  fi
done
