# lb_persist.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET MAP_FILE KEY BACKEND MARKER_FILE COLOR
# Makes the running color survive a reload: the map file, then the marker. Refuses
# when the running HAProxy says something else, for the file must never be ahead of it.
fence "$1" "$2" "$3" "$4"
_now=$(haproxy_map_value "$5" "$6" "$7")
[ "$_now" = "$8" ] || fail "the running HAProxy sends traffic to '$_now', not to $8: nothing persisted"
printf '%s %s\n' "$7" "$8" | write_atomically "$6"
_marker_file=$9
shift 9
mkdir -p "$(dirname "$_marker_file")"
printf '%s\n' "$1" | write_atomically "$_marker_file"
