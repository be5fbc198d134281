# lb_probe.sh TIMEOUT_SECONDS HOST_HEADER URL...: asks every URL from this host, all at once.
# A line for each: URL, HTTP status (000: no answer), body in base64.
_timeout=$1 _host=$2
shift 2
_dir=$(mktemp -d)
trap 'rm -rf "$_dir"' EXIT
_n=0
for _url in "$@"; do
  _n=$((_n + 1))
  (
    _code=$(curl -s -m "$_timeout" -H "Host: $_host" -o "$_dir/body$_n" -w '%{http_code}' "$_url") || :
    printf '%s %s %s\n' "$_url" "${_code:-000}" "$(head -c 16384 "$_dir/body$_n" 2>/dev/null | base64 -w0)" >"$_dir/line$_n"
  ) &
done
wait
cat "$_dir"/line*
