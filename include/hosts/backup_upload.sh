# backup_upload.sh WORK_DIR JOB: sends pieces of a dump, reads each back, and compares its SHA-256.
# Standard input: a line "NAME OFFSET SIZE_BYTES SHA256 PUT_URL GET_URL" for each piece, an empty line, then certificates to
# trust, if any.
_job=$1/$2
umask 077
_tmp=$(mktemp -d "$_job/upload.XXXXXX")
trap 'rm -rf "$_tmp"' EXIT
while IFS= read -r _line && [ -n "$_line" ]; do printf '%s\n' "$_line"; done >"$_tmp/pieces"
cat >"$_tmp/ca.pem"
_ca=
[ ! -s "$_tmp/ca.pem" ] || _ca=$_tmp/ca.pem
# send SLOT NAME OFFSET SIZE_BYTES SHA256 PUT_URL GET_URL
send() {
  _file=$_job/dump/$2
  if [ "$(stat -c %s "$_file")" -ne "$4" ]; then
    tail -c "+$(($3 + 1))" "$_file" | head -c "$4" >"$_tmp/piece$1"
    _file=$_tmp/piece$1
  fi
  [ "$(sha256sum "$_file" | cut -d' ' -f1)" = "$5" ] || fail "$2 has changed since it was verified"
  printf 'url = "%s"\n' "$6" |
    curl -sS --fail --retry 2 --connect-timeout 5 -m 800 ${_ca:+--cacert "$_ca"} -T "$_file" -o /dev/null -K - 2>"$_tmp/said$1" ||
    fail "the upload of $2 failed: $(sed 's|https\{0,1\}://[^ ]*|URL|g' "$_tmp/said$1")"
  # Whatever becomes of curl in this pipe, half an object has another SHA-256.
  _got=$(printf 'url = "%s"\n' "$7" | curl -sS --fail --connect-timeout 5 -m 800 ${_ca:+--cacert "$_ca"} -K - 2>/dev/null | sha256sum | cut -d' ' -f1)
  [ "$_got" = "$5" ] || fail "what object storage gives back of $2 has SHA-256 $_got, expected $5"
}
# Two at a time: one is hashed while another is on its way.
_sent=0 _before=
while read -r _name _offset _size _expected _put _get; do
  send "$((_sent % 2))" "$_name" "$_offset" "$_size" "$_expected" "$_put" "$_get" </dev/null &
  _last=$!
  if [ -n "$_before" ]; then wait "$_before" || { wait; exit 1; }; fi
  _before=$_last
  _sent=$((_sent + 1))
done <"$_tmp/pieces"
[ -z "$_before" ] || wait "$_before" || exit 1
echo "$_sent"
