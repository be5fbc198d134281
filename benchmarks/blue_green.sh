#!/usr/bin/env bash
# Deploys a release blue-green as a careful person would script it: what deploy_blue_green does on the hosts, one login
# for each step and host, without lease, fencing, ledger, bake, evidence and notifications. The baseline of
# blue_green.dag_wall_seconds; nothing else uses it.
#
# usage: blue_green.sh VERSION SHA SHA256 ARTIFACT_URL
# Environment: hosts.sh says what. Prints "EPOCH STEP" when a step is done.
set -euo pipefail
version=$1 sha=$2 sha256=$3 url=$4
release=$version-${sha:0:12}
. "$(dirname "$0")/hosts.sh"

done_step begin
[ "$(remote "$BUILD_HOST" 'git --git-dir "$1/srv/git/sebenza-logistics.git" rev-parse "refs/tags/$2^{commit}"' "$version")" = "$sha" ] ||
  die "$version is not $sha any more"
done_step resolve

each "$LOAD_BALANCERS" "$balancer_state"
state=$(same "$LOAD_BALANCERS")
case $state in
  bk_blue$'\n'bk_blue$'\n'blue) live=blue idle=green ports=$GREEN_PORTS ;;
  bk_green$'\n'bk_green$'\n'green) live=green idle=blue ports=$BLUE_PORTS ;;
  *) die "the load balancers are not in order: $state" ;;
esac
each "$APPLICATION_HOSTS" "$application_state" "$NODE_BIN_DIR" "$PM2_PATH"
done_step plan

INPUT=$CA_FILE each "$APPLICATION_HOSTS" "$install_release" "$release" "$sha256" "$url"
each "$APPLICATION_HOSTS" "$configure_color" "$live" "$idle" "${ports#* }" "$release"
done_step install
remote "${APPLICATION_HOSTS%% *}" "$migrate" "$release" "$idle" "$NODE_BIN_DIR" >/dev/null </dev/null
done_step migrate
each "$APPLICATION_HOSTS" "$start_color" "$idle" "$NODE_BIN_DIR" "$PM2_PATH"
done_step start

bases=()
for host in $APPLICATION_HOSTS; do bases+=("http://$(address "$host"):${ports% *}"); done
each "$LOAD_BALANCERS" "$await_ready" "$idle" "$release" "$PUBLIC_NAME" "$WARM_UP_REQUESTS" "$WARM_UP_PATHS" "${bases[@]}"
each "$LOAD_BALANCERS" "$await_up" "bk_$idle" "${#bases[@]}"
done_step ready
each "$LOAD_BALANCERS" "$switch" "bk_$idle"
done_step switch

each "$LOAD_BALANCERS" "$counters" "bk_$live" "bk_$idle"
declare -A before
for host in $LOAD_BALANCERS; do before[$host]=$(<"$work/$host"); done
pids=()
for host in $LOAD_BALANCERS; do prove "$host" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || die "not every answer came from $release"; done
each "$LOAD_BALANCERS" "$counters" "bk_$live" "bk_$idle"
for host in $LOAD_BALANCERS; do
  read -r old_before new_before <<<"${before[$host]}"
  read -r old_after new_after <"$work/$host"
  [ "$old_after" = "$old_before" ] || die "$host sent $((old_after - old_before)) requests to $live"
  [ "$new_after" -gt "$new_before" ] || die "$host sent nothing to $idle"
done
done_step prove
each "$LOAD_BALANCERS" "$persist" "bk_$idle" "$idle"
done_step persist
each "$LOAD_BALANCERS" "$await_drained" "bk_$live"
done_step drain
each "$LOAD_BALANCERS $APPLICATION_HOSTS" "$record" "$release" "$idle"
done_step record
