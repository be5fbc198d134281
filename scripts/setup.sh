#!/usr/bin/env bash
# Brings a bare Debian 12 machine to where `make demo` and `make test` can run:
# Debian packages (installed without starting their services), the virtual
# environment, and the lab's npm packages. Idempotent; quick when nothing is to do.
set -euo pipefail
cd "$(dirname "$0")/.."

STATE_DIR=.venv/.setup
REQUIRED_DISK_MIB=6144
DEBIAN_PACKAGES=(
  chromium ca-certificates curl git haproxy iproute2 iptables jq nginx-light openssh-client openssh-server openssl
  postgresql-15 procps prometheus prometheus-alertmanager prometheus-node-exporter
  python3 python3-venv redis-server rsync socat util-linux
)

say() { printf 'setup: %s\n' "$*"; }
stop() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

need_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null && sudo -n true 2>/dev/null && return
  stop "$1 needs root: run this as root, or give this user sudo without a password"
}

check_disk() {
  local free_mib
  free_mib=$(df -Pm . | awk 'NR==2 {print $4}')
  [ "$free_mib" -ge "$REQUIRED_DISK_MIB" ] ||
    stop "too little disk: ${free_mib} MiB free in $PWD, ${REQUIRED_DISK_MIB} MiB needed; free some space and run this again"
}

missing_packages() {
  dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${DEBIAN_PACKAGES[@]}" 2>/dev/null |
    awk '$2 == "installed" {print $1}' | sort >"$1"
  printf '%s\n' "${DEBIAN_PACKAGES[@]}" | sort | comm -23 - "$1"
}

# Debian starts a service when its package is installed. A policy that answers
# 101 forbids it for the time of this installation; a policy that the machine
# already has is put back afterwards, and running services are left alone
# (--no-upgrade never touches a package that is already there).
# https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt
POLICY=/usr/sbin/policy-rc.d
CLUSTER_CONF=/etc/postgresql-common/createcluster.conf
restore_policy() {
  if as_root test -e "$POLICY.before-sebenza"; then
    as_root mv -f "$POLICY.before-sebenza" "$POLICY"
  else
    as_root rm -f "$POLICY"
  fi
  if [ "${own_cluster_conf:-no}" = yes ]; then as_root rm -f "$CLUSTER_CONF"; fi
}

install_debian_packages() {
  local present missing log
  present=$(mktemp)
  missing=$(missing_packages "$present")
  rm -f "$present"
  if ! command -v node >/dev/null || [ "$(node -p 'parseInt(process.versions.node)')" -lt 18 ]; then
    missing="$missing nodejs"
  fi
  command -v npm >/dev/null || missing="$missing npm"
  missing=$(echo $missing)
  [ -n "$missing" ] || return 0
  need_root "installing Debian packages ($missing)"
  say "installing Debian packages: $missing"
  if as_root test -e "$POLICY" && ! as_root test -e "$POLICY.before-sebenza"; then
    as_root cp -p "$POLICY" "$POLICY.before-sebenza"
  fi
  trap restore_policy EXIT
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$POLICY" >/dev/null
  as_root chmod 755 "$POLICY"
  # Without this, postgresql-15 creates and enables a cluster of its own.
  if ! as_root test -e "$CLUSTER_CONF" && ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
    own_cluster_conf=yes
    as_root mkdir -p "$(dirname "$CLUSTER_CONF")"
    echo 'create_main_cluster = false' | as_root tee "$CLUSTER_CONF" >/dev/null
  fi
  log=$(mktemp)
  as_root apt-get -q update >"$log" 2>&1 ||
    stop "cannot reach Debian's package servers: check the network, then run this again (details: $log)"
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-upgrade --no-install-recommends \
    -o Dpkg::Options::=--force-confold $missing >"$log" 2>&1 ||
    stop "Debian packages could not be installed: $(grep -m1 '^E:' "$log" || echo "see $log") (details: $log)"
  rm -f "$log"
  restore_policy
  trap - EXIT
}

ensure_system_users() {
  id sebenza >/dev/null 2>&1 && return
  need_root "creating the system user sebenza, who owns the lab's application"
  as_root useradd --system --home-dir /nonexistent --shell /bin/sh sebenza
}

install_python_packages() {
  local wanted
  wanted=$(cat requirements.txt requirements-dev.txt | sha256sum | cut -d' ' -f1)
  [ "$(cat "$STATE_DIR/python" 2>/dev/null)" = "$wanted" ] && [ -x .venv/bin/airflow ] && return
  say "installing Python packages into .venv"
  [ -x .venv/bin/python ] || python3 -m venv .venv ||
    stop "python3 -m venv failed: Python 3.11 with venv is needed"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null ||
    stop "cannot reach the Python package index: check the network, then run this again"
  .venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.txt -r requirements-dev.txt ||
    stop "Python packages could not be installed (see above): check the network and the disk, then run this again"
  mkdir -p "$STATE_DIR"
  echo "$wanted" >"$STATE_DIR/python"
}

install_npm_packages() {
  local wanted
  wanted=$(sha256sum lab/node/package-lock.json | cut -d' ' -f1)
  [ "$(cat "$STATE_DIR/npm" 2>/dev/null)" = "$wanted" ] && [ -d lab/node/node_modules/pm2 ] && return
  say "installing the lab's npm packages into lab/node"
  (cd lab/node && npm ci --silent --no-audit --no-fund) ||
    stop "npm packages could not be installed: check the network, then run this again"
  echo "$wanted" >"$STATE_DIR/npm"
}

check_disk
install_debian_packages
ensure_system_users
install_python_packages
install_npm_packages
