#!/usr/bin/env bash
# Rolls back as the manual's emergency script does, on every application host at once: stop the application, restore the
# earlier release from its backup, start the application, check its health. The baseline of rollback.*; nothing else
# uses it.
#
# usage: rollback.sh COLOR RELEASE_ID BACKUP
#   COLOR: the live one, in which the bad release runs; BACKUP: the earlier release's archive, a path on each host.
# Environment: SSH_CONFIG, ROOTS, APPLICATION_HOSTS, NODE_BIN_DIR, PM2_PATH, PUBLIC_NAME, and BLUE_PORTS, GREEN_PORTS
#   as blue_green.sh has them.
# Prints "EPOCH STEP" when a step is done.
set -euo pipefail
color=$1 release=$2 backup=$3

die() { printf 'rollback.sh: %s\n' "$*" >&2; exit 1; }
done_step() { printf '%s %s\n' "$EPOCHREALTIME" "$1"; }

quote() {
  local part inside="'\\''"
  for part in "$@"; do printf "'%s' " "${part//\'/$inside}"; done
}

# each SCRIPT ARGUMENT...: on all application hosts at once; the script's $1 is the host's root.
each() {
  local script=$1 host pid pids=()
  shift
  for host in $APPLICATION_HOSTS; do
    ssh -F "$SSH_CONFIG" "$host" "timeout 120 sh -euc $(quote "$script" step "$ROOTS/$host" "$@")" </dev/null >/dev/null &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || die "a command failed on one of: $APPLICATION_HOSTS"; done
}

stop=$(cat <<'EOS'
export PM2_HOME="$1/home/sebenza/.pm2" PATH="$3:$PATH"
node "$4" -s stop "sebenza-$2"
EOS
)
restore=$(cat <<'EOS'
umask 022
target=$1/srv/sebenza/releases/$3
rm -rf "$target.restored"
mkdir "$target.restored"
tar -xzf "$1$4" -C "$target.restored"
rm -rf "$target"
mv "$target.restored" "$target"
file=$1/srv/sebenza/colors/$2/ecosystem.config.js
sed "s|releases/[^\"]*\"|releases/$3\"|" "$file" >"$file.new"
mv "$file.new" "$file"
EOS
)
# PM2 keeps the working directory of a process that it knows: a start alone would run the bad release again.
start=$(cat <<'EOS'
export PM2_HOME="$1/home/sebenza/.pm2" PATH="$3:$PATH"
node "$4" -s delete "sebenza-$2" >/dev/null 2>&1 || :
node "$4" -s start "$1/srv/sebenza/colors/$2/ecosystem.config.js"
EOS
)

done_step begin
each "$stop" "$color" "$NODE_BIN_DIR" "$PM2_PATH"
done_step stop
each "$restore" "$color" "$release" "$backup"
done_step restore
each "$start" "$color" "$NODE_BIN_DIR" "$PM2_PATH"
done_step start
ports=BLUE_PORTS
[ "$color" = blue ] || ports=GREEN_PORTS
for host in $APPLICATION_HOSTS; do
  base=http://$(ssh -F "$SSH_CONFIG" -G "$host" | awk '$1 == "hostname" {print $2}'):${!ports% *}
  until curl -s -m 2 -H "Host: $PUBLIC_NAME" "$base/version" | grep -q "\"$release\"" &&
    curl -sf -m 2 -H "Host: $PUBLIC_NAME" -o /dev/null "$base/health"; do sleep 0.2; done
done
done_step verify
