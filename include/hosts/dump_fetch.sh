# dump_fetch.sh WORK_DIR JOB: fetches pieces of a dump into the job's directory, and compares the SHA-256 of each; what is there
# already is not fetched again. Standard input: a line "NAME OFFSET SIZE_BYTES SHA256 GET_URL" for each piece, an empty line, then
# certificates to trust, if any. Prints how many pieces are there.
_job=$1/$2
umask 077
mkdir -p "$_job/dump"
_tmp=$(mktemp -d "$_job/fetch.XXXXXX")
trap 'rm -rf "$_tmp"' EXIT
while IFS= read -r _line && [ -n "$_line" ]; do printf '%s\n' "$_line"; done >"$_tmp/pieces"
cat >"$_tmp/ca.pem"
if [ -s "$_tmp/ca.pem" ]; then set -- --cacert "$_tmp/ca.pem"; else set --; fi
sum_of() { tail -c "+$(($2 + 1))" "$1" 2>/dev/null | head -c "$3" | sha256sum | cut -d' ' -f1; }
_there=0
while read -r _name _offset _size _expected _url; do
  case $_name in /* | *..* | '' | *[!A-Za-z0-9._/-]*) fail "'$_name' is no name of a dump's file" ;; esac
  _file=$_job/dump/$_name
  mkdir -p "$(dirname "$_file")"
  if [ ! -f "$_file" ] || [ "$(sum_of "$_file" "$_offset" "$_size")" != "$_expected" ]; then
    printf 'url = "%s"\n' "$_url" |
      curl -sS --fail --retry 2 --connect-timeout 5 -m 800 "$@" -o "$_tmp/piece" -K - 2>"$_tmp/said" ||
      fail "$_name could not be fetched: $(sed 's|https\{0,1\}://[^ ]*|URL|g' "$_tmp/said")"
    # Whatever object storage gives: a changed or cut object has another SHA-256.
    _got=$(sha256sum "$_tmp/piece" | cut -d' ' -f1)
    [ "$_got" = "$_expected" ] || fail "$_name from byte $_offset has SHA-256 $_got in object storage, its manifest says $_expected: it was changed, or cut"
    dd if="$_tmp/piece" of="$_file" bs=1M oflag=seek_bytes seek="$_offset" conv=notrunc status=none || fail "$_name could not be written: is the disk full?"
  fi
  _there=$((_there + 1))
done <"$_tmp/pieces"
echo "$_there"
