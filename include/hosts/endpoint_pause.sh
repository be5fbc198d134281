# endpoint_pause.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET PAUSE_MAP SECONDS
# New connections to the database wait for so long at most (0: no longer). Prints this host's time, in milliseconds.
fence "$1" "$2" "$3" "$4"
shift 4
_until=0
[ "$3" -eq 0 ] || _until=$(($(date +%s) + $3))
_said=$(haproxy_command "$1" "set map $2 paused_until $_until" | tr -d '\n')
[ -z "$_said" ] || fail "HAProxy refused: $_said"
[ "$(haproxy_map_value "$1" "$2" paused_until)" = "$_until" ] || fail "HAProxy does not say that clients wait until $_until"
date +%s%3N
