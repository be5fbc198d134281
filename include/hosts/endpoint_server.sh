# endpoint_server.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET PROXY STATE_FILE SERVER maint|ready SHUT_SESSIONS HEALTH
# Takes a database server away from clients or gives it back, in the running HAProxy and for its next start. SHUT_SESSIONS
# "yes" ends the sessions there. HEALTH "up" spares clients the time until the next check, which still counts; with
# "down" the check decides first: left alone, a server that comes out of maintenance counts as up at once.
fence "$1" "$2" "$3" "$4"
shift 4
_socket=$1 _proxy=$2 _file=$3 _server=$4 _state=$5
tell() {
  _said=$(haproxy_command "$_socket" "$1" | tr -d '\n')
  [ -z "$_said" ] || fail "HAProxy refused '$1': $_said"
}
admin_state() { haproxy_command "$_socket" "show servers state $_proxy" | awk -v p="$_proxy" -v s="$_server" '$2 == p && $4 == s {print $7}'; }
[ -n "$(admin_state)" ] || fail "HAProxy has no server $_proxy/$_server"
if [ "$7" = - ]; then
  tell "set server $_proxy/$_server state $_state"
else
  # In one go, so that no client comes in between.
  tell "set server $_proxy/$_server state $_state; set server $_proxy/$_server health $7"
fi
[ "$6" != yes ] || tell "shutdown sessions server $_proxy/$_server"
_wanted=0
[ "$_state" = ready ] || _wanted=1
[ "$(admin_state)" = "$_wanted" ] || fail "$_proxy/$_server has administrative state $(admin_state) after it was set to $_state"
haproxy_command "$_socket" "show servers state $_proxy" | grep . | write_atomically "$_file"
date +%s%3N
