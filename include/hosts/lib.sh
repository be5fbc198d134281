# Sourced, by being sent first, into every script that Sebenza Ops runs on a host.
# POSIX sh; needs flock, sync, mktemp, curl, tar, sha256sum, and socat on load balancers.
set -eu
umask 022

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

# write_atomically FILE: standard input becomes FILE, or FILE stays as it was.
write_atomically() {
  _tmp=$(mktemp "$1.XXXXXX") || fail "cannot write beside $1"
  if cat >"$_tmp" && chmod "${2:-644}" "$_tmp" && sync "$_tmp" && mv -f "$_tmp" "$1"; then
    sync "$(dirname "$1")"
  else
    rm -f "$_tmp"
    fail "cannot write $1"
  fi
}

# fence STATE_DIR ENVIRONMENT TOKEN HOLDER: refuses a token lower than the highest
# seen here (or that one from another holder: with the ledger down two could get the same), remembers a higher one, and keeps a later holder out until this script ends.
# Exit 77: fenced off. Exit 75: somebody else changes this host right now.
fence() {
  # Longer ones are beyond what `test` compares, and its failure would read as "not lower".
  case $3 in '' | *[!0-9]* | ???????????????????*) fail "'$3' is no fencing token" ;; esac
  mkdir -p "$1"
  _fence_file=$1/fence-$2
  exec 9>>"$1/fence-$2.lock"
  flock -w 20 9 || {
    printf 'another change is running on this host: %s\n' "$(cat "$_fence_file" 2>/dev/null)" >&2
    exit 75
  }
  _seen=0
  if [ -e "$_fence_file" ]; then
    _seen=$(cut -d' ' -f1 "$_fence_file")
    case $_seen in
      '' | *[!0-9]* | ???????????????????*) fail "unreadable fence $_fence_file: '$_seen' is no token; look at who changed it, then remove it" ;;
    esac
  fi
  if [ "$3" -lt "$_seen" ]; then
    printf 'fenced off: token %s is lower than %s\n' "$3" "$(cat "$_fence_file")" >&2
    exit 77
  fi
  _seen_holder=$(cut -s -d' ' -f2 "$_fence_file" 2>/dev/null) || :
  if [ "$3" -eq "$_seen" ] && [ -n "$_seen_holder" ] && [ "$_seen_holder" != "$4" ]; then
    printf 'fenced off: token %s is of %s\n' "$3" "$_seen_holder" >&2
    exit 77
  fi
  if [ "$3" -gt "$_seen" ]; then
    printf '%s %s %s\n' "$3" "$4" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" | write_atomically "$_fence_file"
  fi
}

# pm2_runs PM2_HOME: whether the daemon runs. Without one, every pm2 command would start its own, outside its service.
pm2_runs() {
  _pm2_pid=$(cat "$1/pm2.pid" 2>/dev/null) || return 1
  # `kill -0 0` asks about this very script.
  case $_pm2_pid in '' | 0 | *[!0-9]*) return 1 ;; esac
  [ -S "$1/rpc.sock" ] && kill -0 "$_pm2_pid" 2>/dev/null
}

# haproxy_command SOCKET COMMAND: what the runtime API answers. socat exits 0 on HAProxy's errors.
haproxy_command() {
  printf '%s\n' "$2" | socat -t5 -T5 - "UNIX-CONNECT:$1"
}

# haproxy_map_value SOCKET MAP_FILE KEY: the value in the running HAProxy.
haproxy_map_value() {
  haproxy_command "$1" "show map $2" | awk -v key="$3" '$2 == key {print $3}'
}
