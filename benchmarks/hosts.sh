# Sourced by the shell scripts that are baselines: what a careful person would have at hand for such a script. The caller
# sets `release`. Environment: SSH_CONFIG (of the hosts), ROOTS (holds each host's file tree), LOAD_BALANCERS,
#   APPLICATION_HOSTS, BUILD_HOST, BLUE_PORTS and GREEN_PORTS ("PORT PROCESS_PORT"), HTTPS_PORT, PUBLIC_NAME, CA_FILE,
#   NODE_BIN_DIR, PM2_PATH, WARM_UP_PATHS, WARM_UP_REQUESTS, PROOF_REQUESTS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }
done_step() { printf '%s %s\n' "$EPOCHREALTIME" "$1"; }

quote() {
  local part inside="'\\''"
  for part in "$@"; do printf "'%s' " "${part//\'/$inside}"; done
}

# remote HOST SCRIPT ARGUMENT...: the script's $1 is the host's root.
remote() {
  local host=$1 script=$2
  shift 2
  ssh -F "$SSH_CONFIG" "$host" "timeout 120 sh -euc $(quote "$script" step "$ROOTS/$host" "$@")"
}

# each HOSTS SCRIPT ARGUMENT...: on all hosts at once; what each prints is in $work/HOST.
each() {
  local hosts=$1 script=$2 host pid pids=()
  shift 2
  for host in $hosts; do
    remote "$host" "$script" "$@" <"${INPUT:-/dev/null}" >"$work/$host" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || die "a command failed on one of: $hosts"; done
}

# same HOSTS: what all hosts printed, when it is the same.
same() {
  local first="" host
  for host in $1; do
    [ -n "$first" ] || first=$(<"$work/$host")
    [ "$(<"$work/$host")" = "$first" ] || die "hosts disagree: $1"
  done
  printf '%s' "$first"
}

address() { ssh -F "$SSH_CONFIG" -G "$1" | awk '$1 == "hostname" {print $2}'; }

balancer_state=$(cat <<'EOF'
printf 'show map %s\n' "$1/etc/haproxy/maps/color.map" | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk '$2 == "active" {print $3}'
awk '{print $2}' "$1/etc/haproxy/maps/color.map"
cat "$1/var/deployment/current-color"
EOF
)
application_state=$(cat <<'EOF'
PM2_HOME=$1/home/sebenza/.pm2 "$2/node" "$3" -s jlist </dev/null | "$2/node" -e '
  let text = ""
  process.stdin.on("data", (part) => { text += part }).on("end", () => {
    for (const p of JSON.parse(text.slice(text.indexOf("[")))) console.log(p.name, p.pm2_env.status, p.pm2_env.pm_cwd)
  })'
df -Pk "$1/srv/sebenza/releases" | awk 'NR == 2 {print $4}'
EOF
)
install_release=$(cat <<'EOF'
umask 022
releases=$1/srv/sebenza/releases
work=$(mktemp -d "$releases/.install-XXXXXX")
trap 'rm -rf "$work"' EXIT
cat >"$work/ca.pem"
curl -sS --fail --cacert "$work/ca.pem" -o "$work/artifact.tar.gz" "$4"
printf '%s  %s\n' "$3" "$work/artifact.tar.gz" | sha256sum -c --status
mkdir "$work/release"
tar -xzf "$work/artifact.tar.gz" -C "$work/release"
printf '%s\n' "$3" >"$work/release/.artifact-sha256"
rm -rf "$releases/$2"
mv "$work/release" "$releases/$2"
sync -f "$releases/$2"
EOF
)
# The settings are those of the live color, with its name, port and release replaced.
configure_color=$(cat <<'EOF'
umask 077
live=$1/srv/sebenza/colors/$2 idle=$1/srv/sebenza/colors/$3
mkdir -p "$idle/run"
sed -e "s/^SEBENZA_COLOR=.*/SEBENZA_COLOR=$3/" -e "s/^APP_PORT=.*/APP_PORT=$4/" "$live/app.env" >"$idle/app.env.new"
sed -e "s/$2/$3/g" -e "s|releases/[^\"]*\"|releases/$5\"|" "$live/ecosystem.config.js" >"$idle/ecosystem.config.js.new"
sync "$idle/app.env.new" "$idle/ecosystem.config.js.new"
mv "$idle/app.env.new" "$idle/app.env"
mv "$idle/ecosystem.config.js.new" "$idle/ecosystem.config.js"
EOF
)
migrate=$(cat <<'EOF'
cd "$1/srv/sebenza/releases/$2"
"$4/node" bin/migrate.js --settings "$1/srv/sebenza/colors/$3/app.env" up --phase expand
EOF
)
start_color=$(cat <<'EOF'
export PM2_HOME="$1/home/sebenza/.pm2" PATH="$3:$PATH"
node "$4" -s delete "sebenza-$2" >/dev/null 2>&1 || :
node "$4" -s start "$1/srv/sebenza/colors/$2/ecosystem.config.js"
node "$4" -s save --force >/dev/null
EOF
)
# Healthy with this release on every host, warmed up, and up for this load balancer's own checks.
await_ready=$(cat <<'EOF'
color=$2 release=$3 name=$4 requests=$5 paths=$6
shift 6
for base in "$@"; do
  until curl -s -m 2 -H "Host: $name" "$base/version" | grep -q "\"$release\"" &&
    curl -sf -m 2 -H "Host: $name" -o /dev/null "$base/health"; do sleep 0.2; done
done
for base in "$@"; do
  for path in $paths; do
    i=0
    while [ "$i" -lt "$requests" ]; do i=$((i + 1)); printf 'url = "%s"\noutput = "/dev/null"\n' "$base$path"; done |
      curl -s -m 30 -H "Host: $name" -K -
  done
done
EOF
)
await_up=$(cat <<'EOF'
until [ "$(printf 'show stat\n' | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk -F, -v b="$2" '$1 == b && $2 != "BACKEND" && $18 ~ /^UP/' | wc -l)" -ge "$3" ]; do sleep 0.2; done
EOF
)
switch=$(cat <<'EOF'
ask() { printf '%s\n' "$2" | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock"; }
map=$1/etc/haproxy/maps/color.map
[ -z "$(ask "$1" "set map $map active $2" | tr -d '\n')" ]
[ "$(ask "$1" "show map $map" | awk '$2 == "active" {print $3}')" = "$2" ]
EOF
)
# Requests that each of the backends has had.
counters=$(cat <<'EOF'
printf 'show stat\n' | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk -F, -v a="$2" -v b="$3" '$2 == "BACKEND" {n[$1] = $8} END {print n[a], n[b]}'
EOF
)
persist=$(cat <<'EOF'
map=$1/etc/haproxy/maps/color.map marker=$1/var/deployment/current-color
printf 'active %s\n' "$2" >"$map.new"
printf '%s\n' "$3" >"$marker.new"
sync "$map.new" "$marker.new"
mv "$map.new" "$map"
mv "$marker.new" "$marker"
sync "$(dirname "$map")" "$(dirname "$marker")"
EOF
)
await_drained=$(cat <<'EOF'
until printf 'show stat\n' | socat -t5 - "UNIX-CONNECT:$1/run/haproxy/admin.sock" |
  awk -F, -v b="$2" '$1 == b && $2 == "BACKEND" && $5 == 0 {found = 1} END {exit !found}'; do sleep 0.2; done
EOF
)
record=$(cat <<'EOF'
cd "$1/var/deployment"
printf '%s\n' "$2" >last-good-release.new
printf '%s\n' "$3" >current-color.new
sync last-good-release.new current-color.new
mv last-good-release.new last-good-release
mv current-color.new current-color
sync .
EOF
)

# prove HOST: as many fresh as kept connections through it, all of which must meet the release.
prove() {
  local at urls=() i
  at=$(address "$1")
  local url=https://$PUBLIC_NAME:$HTTPS_PORT/version
  local ask=(curl -sf -m 5 --cacert "$CA_FILE" --resolve "$PUBLIC_NAME:$HTTPS_PORT:$at" -w '%header{x-release}\n')
  for ((i = 0; i < PROOF_REQUESTS; i++)); do
    [ "$("${ask[@]}" -o /dev/null "$url")" = "$release" ] || return 1
    urls+=(-o /dev/null "$url")
  done
  [ "$("${ask[@]}" "${urls[@]}" | sort -u)" = "$release" ]
}
