# lb_switch.sh STATE_DIR ENVIRONMENT TOKEN HOLDER SOCKET MAP_FILE KEY BACKEND
# Sends all new requests to BACKEND, in the running HAProxy only, and reads it back.
fence "$1" "$2" "$3" "$4"
# HAProxy takes an unknown backend's name without a word and answers 503 from then on.
_stat=$(haproxy_command "$5" "show stat") || fail "HAProxy's admin socket $5 does not answer: does HAProxy run?"
printf '%s\n' "$_stat" | awk -F, -v b="$8" '$1 == b && $2 == "BACKEND" {found = 1} END {exit !found}' ||
  fail "HAProxy has no backend $8"
# `set map` changes an entry, it does not make one: a HAProxy that started with an empty map file has none.
_verb=set
[ -n "$(haproxy_map_value "$5" "$6" "$7")" ] || _verb=add
_said=$(haproxy_command "$5" "$_verb map $6 $7 $8" | tr -d '\n')
[ -z "$_said" ] || fail "HAProxy refused: $_said"
_now=$(haproxy_map_value "$5" "$6" "$7")
[ "$_now" = "$8" ] || fail "HAProxy's map says '$_now' after it was set to $8"
printf '%s\n' "$_now"
