# lb_warm.sh COUNT HOST_HEADER URL...: asks every URL COUNT times over kept connections, so that
# pools, caches and compiled code are ready before users come. Prints how many answered and how many did not.
_count=$1 _host=$2
shift 2
_ok=0 _bad=0
for _url in "$@"; do
  _codes=$(i=0; while [ "$i" -lt "$_count" ]; do i=$((i + 1)); printf 'url = "%s"\noutput = "/dev/null"\n' "$_url"; done |
    curl -s -m 30 -H "Host: $_host" -w '%{http_code}\n' -K -) || :
  for _code in $_codes; do
    case $_code in 2?? | 3?? | 4??) _ok=$((_ok + 1)) ;; *) _bad=$((_bad + 1)) ;; esac
  done
done
printf '%s %s\n' "$_ok" "$_bad"
