# dump_upload.sh WORK_DIR RUN SHA256: sends the dump, reads it back, and compares its SHA-256.
# Standard input: the signed URL to write to, the one to read from, then certificates to trust, if any.
_job=$1/$2
IFS= read -r _put
IFS= read -r _get
_ca=$(mktemp)
trap 'rm -f "$_ca"' EXIT
cat >"$_ca"
_expected=$3
[ "$(sha256sum "$_job/dump.pgc" | cut -d' ' -f1)" = "$_expected" ] || fail "the dump has changed since it was verified"
if [ -s "$_ca" ]; then set -- --cacert "$_ca"; else set --; fi
printf 'url = "%s"\n' "$_put" |
  curl -sS --fail --retry 2 --connect-timeout 5 -m 800 "$@" -T "$_job/dump.pgc" -o /dev/null -K - || fail "the upload failed"
# Whatever becomes of curl in this pipe, half an object has another SHA-256.
_got=$(printf 'url = "%s"\n' "$_get" | curl -sS --fail --connect-timeout 5 -m 800 "$@" -K - | sha256sum | cut -d' ' -f1)
[ "$_got" = "$_expected" ] || fail "what object storage gives back has SHA-256 $_got, expected $_expected"
