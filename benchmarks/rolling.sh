#!/usr/bin/env bash
# Deploys a release host by host, inside the live color, as a careful person would script it: what deploy_standard does on
# the hosts, without lease, fencing, ledger, watching, evidence and notifications. The baseline of
# rolling.dag_wall_seconds. With "stop-start" it does what the manual says instead: all hosts are stopped, get the
# release, and are started. With "pm2-reload" the live color's processes are reloaded on all hosts, as they are. Those two
# are baselines of rolling.failed_requests.
#
# usage: rolling.sh VERSION SHA SHA256 ARTIFACT_URL [stop-start|pm2-reload]
# Environment: hosts.sh says what. Prints "EPOCH STEP" when a step is done.
set -euo pipefail
version=$1 sha=$2 sha256=$3 url=$4 way=${5:-rolling}
release=$version-${sha:0:12}
. "$(dirname "$0")/hosts.sh"

stop_color=$(cat <<'EOF'
export PM2_HOME="$1/home/sebenza/.pm2" PATH="$3:$PATH"
node "$4" -s stop "sebenza-$2"
EOF
)
reload_color=$(cat <<'EOF'
export PM2_HOME="$1/home/sebenza/.pm2" PATH="$3:$PATH"
node "$4" -s reload "sebenza-$2"
EOF
)
rotate=$(cat <<'EOF'
[ -z "$(printf 'set server %s state %s\n' "$2" "$3" | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" | tr -d '\n')" ]
EOF
)
await_server_drained=$(cat <<'EOF'
until printf 'show stat\n' | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk -F, -v b="$2" -v s="$3" '$1 == b && $2 == s && $5 == 0 {found = 1} END {exit !found}'; do sleep 0.2; done
EOF
)
await_server=$(cat <<'EOF'
until printf 'show stat\n' | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk -F, -v b="$2" -v s="$3" -v w="$4" '$1 == b && $2 == s && index($18, w) == 1 {found = 1} END {exit !found}'
do sleep 0.2; done
EOF
)

done_step begin
each "$LOAD_BALANCERS" "$balancer_state"
state=$(same "$LOAD_BALANCERS")
case $state in
  bk_blue$'\n'bk_blue$'\n'blue) live=blue ports=$BLUE_PORTS ;;
  bk_green$'\n'bk_green$'\n'green) live=green ports=$GREEN_PORTS ;;
  *) die "the load balancers are not in order: $state" ;;
esac
each "$APPLICATION_HOSTS" "$application_state" "$NODE_BIN_DIR" "$PM2_PATH"
done_step plan

if [ "$way" = pm2-reload ]; then
  each "$APPLICATION_HOSTS" "$reload_color" "$live" "$NODE_BIN_DIR" "$PM2_PATH"
  done_step reload
  exit
fi
if [ "$way" = stop-start ]; then
  each "$APPLICATION_HOSTS" "$stop_color" "$live" "$NODE_BIN_DIR" "$PM2_PATH"
  INPUT=$CA_FILE each "$APPLICATION_HOSTS" "$install_release" "$release" "$sha256" "$url"
  each "$APPLICATION_HOSTS" "$configure_color" "$live" "$live" "${ports#* }" "$release"
  each "$APPLICATION_HOSTS" "$start_color" "$live" "$NODE_BIN_DIR" "$PM2_PATH"
  for host in $APPLICATION_HOSTS; do each "$LOAD_BALANCERS" "$await_server" "bk_$live" "$host" UP; done
  each "$LOAD_BALANCERS $APPLICATION_HOSTS" "$record" "$release" "$live"
  done_step start
  exit
fi

INPUT=$CA_FILE each "$APPLICATION_HOSTS" "$install_release" "$release" "$sha256" "$url"
done_step install
remote "${APPLICATION_HOSTS%% *}" "$migrate" "$release" "$live" "$NODE_BIN_DIR" >/dev/null </dev/null
done_step migrate
for host in $APPLICATION_HOSTS; do
  each "$LOAD_BALANCERS" "$rotate" "bk_$live/$host" drain
  each "$LOAD_BALANCERS" "$await_server_drained" "bk_$live" "$host"
  each "$host" "$configure_color" "$live" "$live" "${ports#* }" "$release"
  each "$host" "$start_color" "$live" "$NODE_BIN_DIR" "$PM2_PATH"
  each "$LOAD_BALANCERS" "$await_ready" "$live" "$release" "$PUBLIC_NAME" "$WARM_UP_REQUESTS" "$WARM_UP_PATHS" \
    "http://$(address "$host"):${ports% *}"
  each "$LOAD_BALANCERS" "$await_server" "bk_$live" "$host" DRAIN
  each "$LOAD_BALANCERS" "$rotate" "bk_$live/$host" ready
  each "$LOAD_BALANCERS" "$await_server" "bk_$live" "$host" UP
  done_step "$host"
done
pids=()
for host in $LOAD_BALANCERS; do prove "$host" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || die "not every answer came from $release"; done
done_step prove
each "$LOAD_BALANCERS $APPLICATION_HOSTS" "$record" "$release" "$live"
done_step record
