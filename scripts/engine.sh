#!/usr/bin/env bash
# Runs a command with a container engine: the one that is there, or Debian's docker.io, installed without its service and
# started by hand for the time of the command, on a socket and in a directory of its own.
#   scripts/engine.sh COMMAND [ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'engine: %s\n' "$*"; }
stop() { printf 'engine: %s\n' "$*" >&2; exit 1; }
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

# Images and volumes; far larger than a checkout, and kept from run to run.
STATE_DIR=${SEBENZA_ENGINE_DIR:-$PWD/build/engine}
PID_FILE=$STATE_DIR/dockerd.pid
LOG=$STATE_DIR/dockerd.log

runs() { docker info >/dev/null 2>&1; }

start_own() {
  need_root "running a container engine"
  install_missing docker.io docker-compose iptables
  mkdir -p "$STATE_DIR"
  # A Unix socket's path has at most 107 bytes.
  SOCKET=$(mktemp -d /run/sebenza-engine.XXXXXX)
  export DOCKER_HOST=unix://$SOCKET/docker.sock
  setsid dockerd --data-root "$STATE_DIR/data" --exec-root "$SOCKET/exec" --pidfile "$PID_FILE" \
    --host "$DOCKER_HOST" --log-level warn >"$LOG" 2>&1 </dev/null &
  own_pid=$!
  trap stop_own EXIT
  local deadline=$((SECONDS + 60))
  until runs; do
    kill -0 "$own_pid" 2>/dev/null || stop "dockerd has ended: $(tail -n 3 "$LOG") (details: $LOG)"
    [ "$SECONDS" -lt "$deadline" ] || stop "dockerd does not answer after 60 s (details: $LOG)"
    sleep 0.2
  done
  say "dockerd $(docker version --format '{{.Server.Version}}') runs for this command; images are kept in $STATE_DIR"
}

stop_own() {
  status=$?
  trap - EXIT
  # It may have ended by itself; the command's own status is what counts.
  kill "$own_pid" 2>/dev/null || true
  wait "$own_pid" 2>/dev/null || true
  rm -rf "$SOCKET"
  exit "$status"
}

# Debian's programs belong together; one elsewhere on the PATH may be of another time.
export PATH=/usr/bin:/usr/sbin:$PATH
runs || start_own
"$@"
