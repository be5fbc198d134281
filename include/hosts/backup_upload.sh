# backup_upload.sh WORK_DIR JOB: sends pieces of a dump, reads each back, and compares its SHA-256.
# Standard input: a line "NAME OFFSET SIZE_BYTES SHA256 PUT_URL GET_URL" for each piece, an empty line, then certificates to
# trust, if any.
_job=$1/$2
umask 077
_tmp=$(mktemp -d "$_job/upload.XXXXXX")
trap 'rm -rf "$_tmp"' EXIT
while IFS= read -r _line && [ -n "$_line" ]; do printf '%s\n' "$_line"; done >"$_tmp/pieces"
cat >"$_tmp/ca.pem"
if [ -s "$_tmp/ca.pem" ]; then set -- --cacert "$_tmp/ca.pem"; else set --; fi
_sent=0
while read -r _name _offset _size _expected _put _get; do
  _file=$_job/dump/$_name
  if [ "$(stat -c %s "$_file")" -ne "$_size" ]; then
    tail -c "+$((_offset + 1))" "$_file" | head -c "$_size" >"$_tmp/piece"
    _file=$_tmp/piece
  fi
  [ "$(sha256sum "$_file" | cut -d' ' -f1)" = "$_expected" ] || fail "$_name has changed since it was verified"
  printf 'url = "%s"\n' "$_put" |
    curl -sS --fail --retry 2 --connect-timeout 5 -m 800 "$@" -T "$_file" -o /dev/null -K - 2>"$_tmp/said" ||
    fail "the upload of $_name failed: $(sed 's|https\{0,1\}://[^ ]*|URL|g' "$_tmp/said")"
  # Whatever becomes of curl in this pipe, half an object has another SHA-256.
  _got=$(printf 'url = "%s"\n' "$_get" | curl -sS --fail --connect-timeout 5 -m 800 "$@" -K - 2>/dev/null | sha256sum | cut -d' ' -f1)
  [ "$_got" = "$_expected" ] || fail "what object storage gives back of $_name has SHA-256 $_got, expected $_expected"
  _sent=$((_sent + 1))
done <"$_tmp/pieces"
echo "$_sent"
