# check_transfer.sh: reads the signed URL on standard input's first line as a host does when it fetches a release;
# certificates may follow. Prints curl's exit status, the HTTP status and the content's SHA-256; keeps nothing.
IFS= read -r _url
_dir=$(mktemp -d)
trap 'rm -rf "$_dir"' EXIT
cat >"$_dir/ca.pem"
if [ -s "$_dir/ca.pem" ]; then set -- --cacert "$_dir/ca.pem"; else set --; fi
_status=0
_code=$(printf 'url = "%s"\n' "$_url" | curl -sS --connect-timeout 5 -m 15 "$@" -o "$_dir/content" -w '%{http_code}' -K - 2>"$_dir/said") || _status=$?
_sha256=none
if [ -f "$_dir/content" ]; then _sha256=$(sha256sum <"$_dir/content" | cut -d' ' -f1); fi
printf '%s %s %s\n' "$_status" "${_code:-000}" "$_sha256"
# The URL is a secret for fifteen minutes: curl's complaint is kept without it.
sed 's|https\{0,1\}://[^ ]*|URL|g' "$_dir/said"
