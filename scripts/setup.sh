#!/usr/bin/env bash
# Brings a bare Debian 12 machine to where `make demo` and `make test` can run:
# Debian packages (installed without starting their services), the virtual
# environment, and the lab's npm packages. Idempotent; quick when nothing is to do.
set -euo pipefail
cd "$(dirname "$0")/.."

STATE_DIR=.venv/.setup
REQUIRED_DISK_MIB=6144
DEBIAN_PACKAGES=(
  age check-pgbackrest chromium ca-certificates curl git haproxy iproute2 iptables jq knot libfaketime nginx-light
  openssh-client openssh-server openssl pgbackrest postgresql-15 procps prometheus prometheus-alertmanager prometheus-node-exporter
  python3 python3-venv redis-server rsync socat unbound util-linux util-linux-extra zstd
)

say() { printf 'setup: %s\n' "$*"; }
stop() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# shellcheck source=scripts/packages.sh
. scripts/packages.sh

check_disk() {
  local free_mib
  free_mib=$(df -Pm . | awk 'NR==2 {print $4}')
  [ "$free_mib" -ge "$REQUIRED_DISK_MIB" ] ||
    stop "too little disk: ${free_mib} MiB free in $PWD, ${REQUIRED_DISK_MIB} MiB needed; free some space and run this again"
}

install_debian_packages() {
  local packages=("${DEBIAN_PACKAGES[@]}")
  if ! command -v node >/dev/null || [ "$(node -p 'parseInt(process.versions.node)')" -lt 18 ]; then
    packages+=(nodejs)
  fi
  command -v npm >/dev/null || packages+=(npm)
  install_missing "${packages[@]}"
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
