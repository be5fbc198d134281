# endpoint_lead.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET PROXY STATE_FILE PAUSE_MAP OLD NEW
# Leads clients to NEW, which is known to be the primary, and none to OLD, over restarts too; those that wait go on.
# Prints this host's time, in milliseconds.
fence "$1" "$2" "$3" "$4"
shift 4
_socket=$1 _proxy=$2 _file=$3
tell() {
  _said=$(haproxy_command "$_socket" "$1" | tr -d '\n')
  [ -z "$_said" ] || fail "HAProxy refused '$1': $_said"
}
tell "set server $_proxy/$5 state maint; shutdown sessions server $_proxy/$5; set server $_proxy/$6 state ready; set server $_proxy/$6 health up"
_found=$(haproxy_command "$_socket" "show servers state $_proxy" | awk -v p="$_proxy" -v o="$5" -v n="$6" '
  $2 == p && $4 == o { old = $7 } $2 == p && $4 == n { new = $7 } END { print old, new }')
[ "$_found" = "1 0" ] || fail "HAProxy has $5 and $6 in the administrative states $_found, not 1 and 0"
tell "set map $4 paused_until 0"
date +%s%3N
haproxy_command "$_socket" "show servers state $_proxy" | grep . | write_atomically "$_file"
