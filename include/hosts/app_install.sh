# app_install.sh STATE_DIR ENVIRONMENT TOKEN HOLDER RELEASES_DIR RELEASE_ID SHA256 SIZE_BYTES
# Standard input: the artifact's URL on the first line, then the certificates that its server is checked with, if any.
# Fetches, verifies, unpacks beside, and moves the release into place; a release that is there is left alone.
_state=$1 _environment=$2 _token=$3 _holder=$4 _releases=$5 _id=$6 _sha256=$7 _size=$8
_target=$_releases/$_id
mkdir -p "$_releases"
if [ -f "$_target/release.json" ] && [ "$(cat "$_target/.artifact-sha256" 2>/dev/null)" = "$_sha256" ]; then
  echo present
  exit 0
fi
# Unpacked, a release with its modules takes several times its archive.
_free_kib=$(df -Pk "$_releases" | awk 'NR == 2 {print $4}')
_need_kib=$((_size * 8 / 1024 + 10240))
[ "$_free_kib" -ge "$_need_kib" ] || fail "disk full: $_free_kib KiB free in $_releases, $_need_kib KiB needed"
# What an install that was killed has left.
find "$_releases" -maxdepth 1 -name '.install-*' -mmin +60 -exec rm -rf {} +
_work=$(mktemp -d "$_releases/.install-XXXXXX") || fail "cannot write in $_releases"
trap 'rm -rf "$_work"' EXIT
trap 'exit 129' HUP
trap 'exit 143' TERM
IFS= read -r _url || fail "$_id is not here, and there is no URL to fetch it from: is object storage up?"
cat >"$_work/ca.pem"
if [ -s "$_work/ca.pem" ]; then set -- --cacert "$_work/ca.pem"; else set --; fi
printf 'url = "%s"\n' "$_url" | curl -sS --fail --retry 2 --connect-timeout 5 -m 240 "$@" -o "$_work/artifact.tar.gz" -K - ||
  fail "the artifact could not be fetched"
_got=$(sha256sum "$_work/artifact.tar.gz" | cut -d' ' -f1)
[ "$_got" = "$_sha256" ] || fail "the artifact's SHA-256 is $_got, expected $_sha256"
mkdir "$_work/release"
tar -xzf "$_work/artifact.tar.gz" -C "$_work/release" || fail "the artifact could not be unpacked"
[ -f "$_work/release/release.json" ] || fail "the artifact has no release.json"
printf '%s\n' "$_sha256" >"$_work/release/.artifact-sha256"
fence "$_state" "$_environment" "$_token" "$_holder"
if [ -e "$_target" ]; then mv "$_target" "$_releases/.replaced-$_id-$(date -u +%Y%m%dT%H%M%SZ)"; fi
mv "$_work/release" "$_target"
sync -f "$_target"
echo installed
