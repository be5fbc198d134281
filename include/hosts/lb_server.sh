# lb_server.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET BACKEND STATE MINIMUM SERVER...
# Takes servers of BACKEND out of rotation (STATE drain: no new requests, health checks go on) or puts them back (ready),
# in the running HAProxy only, and reads it back. A drain that leaves fewer than MINIMUM others up is refused.
fence "$1" "$2" "$3" "$4"
_socket=$5 _backend=$6 _state=$7 _minimum=$8
shift 8
# One line a server: name, operational state (2: up), administrative state (1: MAINT, 8: DRAIN; 0: in rotation).
# HAProxy Management Guide, 9.3, "show servers state".
servers() {
  haproxy_command "$_socket" "show servers state $_backend" | awk -v b="$_backend" '$2 == b {print $4, $6, $7}'
}
_before=$(servers) || fail "HAProxy's admin socket $_socket does not answer: does HAProxy run?"
for _server in "$@"; do
  _admin=$(printf '%s\n' "$_before" | awk -v s="$_server" '$1 == s {print $3}')
  [ -n "$_admin" ] || fail "HAProxy has no server $_backend/$_server"
  [ $((_admin % 2)) -eq 0 ] || fail "$_backend/$_server is in maintenance (MAINT): somebody took it out, put it back first"
done
if [ "$_state" = drain ]; then
  _others=$(printf '%s\n' "$_before" | awk -v given=" $* " '$2 == 2 && $3 == 0 && !index(given, " " $1 " ")' | wc -l)
  [ "$_others" -ge "$_minimum" ] ||
    fail "without $* only $_others servers of $_backend would be in rotation, $_minimum are the minimum"
fi
for _server in "$@"; do
  _said=$(haproxy_command "$_socket" "set server $_backend/$_server state $_state" | tr -d '\n')
  [ -z "$_said" ] || fail "HAProxy refused: $_said"
done
_wanted=0
[ "$_state" = ready ] || _wanted=8
_after=$(servers)
for _server in "$@"; do
  _admin=$(printf '%s\n' "$_after" | awk -v s="$_server" '$1 == s {print $3}')
  [ "$_admin" = "$_wanted" ] || fail "$_backend/$_server has administrative state $_admin after it was set to $_state"
done
printf '%s\n' "$_after"
