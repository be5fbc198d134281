# check_load_balancer.sh SOCKET MAP_FILE MARKER_FILE CONFIG_FILE: what HAProxy does, and what its files say. Changes nothing.
# Of the configuration only lines about traffic leave this host: it may hold passwords.
printf '== socket\n'
if [ -S "$1" ]; then
  printf '%s %s\n' "$(if [ -r "$1" ] && [ -w "$1" ]; then echo yes; else echo no; fi)" "$(stat -c '%U:%G %a' "$1")"
else
  echo '!missing'
fi
_ask() {
  printf '== %s\n' "$1"
  haproxy_command "$_socket" "$2" 2>/dev/null || echo '!no-answer'
}
_socket=$1
_ask level 'show cli level'
_ask info 'show info' | grep -E '^(==|!|Version:|Uptime_sec:|Node:|Maxconn:)'
_ask maps 'show map'
_ask map "show map $2"
_ask stat 'show stat'
_ask servers 'show servers state'
printf '== file\n'
cat "$2" 2>/dev/null || echo '!missing'
printf '\n== marker\n'
cat "$3" 2>/dev/null || echo '!missing'
printf '\n== config\n'
if [ -r "$4" ]; then
  grep -E '^[[:space:]]*(global|defaults|frontend|backend|listen|stats socket|use_backend|default_backend|bind|mode)([[:space:]]|$)' "$4" || :
elif [ -e "$4" ]; then
  echo '!unreadable'
else
  echo '!missing'
fi
