# endpoint_state.sh SOCKET PROXY PAUSE_MAP STATE_FILE: where the database's endpoint leads, and whether clients wait.
printf '== servers\n'
haproxy_command "$1" "show servers state $2" | awk -v p="$2" '$2 == p {print $4, $6, $7}'
printf '== stat\n'
haproxy_command "$1" "show stat" | awk -F, -v p="$2" '$1 == p {print $2, $5, $18, $24}' OFS=,
printf '== pause\n'
haproxy_map_value "$1" "$3" paused_until
printf '== file\n'
awk -v p="$2" '$2 == p {print $4, $7}' "$4" 2>/dev/null || echo '!missing'
printf '== now\n'
date +%s%3N
