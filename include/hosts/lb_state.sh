# lb_state.sh SOCKET MAP_FILE MARKER_FILE: what a load balancer does now, and what its files say.
printf '== map\n'
haproxy_command "$1" "show map $2"
printf '== stat\n'
haproxy_command "$1" "show stat"
printf '== info\n'
haproxy_command "$1" "show info" | grep -E '^(Version|Pid|Uptime_sec|Node):'
printf '== file\n'
cat "$2" 2>/dev/null || echo '!missing'
printf '\n== marker\n'
cat "$3" 2>/dev/null || echo '!missing'
