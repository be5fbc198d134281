#!/usr/bin/env bash
# Brings a bare Debian 12 machine to where `make demo` and `make test` can run:
# Debian packages (installed without starting their services), the virtual
# environment, and the lab's npm packages. Idempotent; quick when nothing is to do.
#
#   setup.sh [lab]    with lab: what would stop the lab from starting is said first
set -euo pipefail
cd "$(dirname "$0")/.."

PURPOSE=${1:-tools}
STATE_DIR=.venv/.setup
# Only where something is to be installed; what the lab itself takes is in lab/start_check.py.
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
# shellcheck source=scripts/start_check.sh
. scripts/start_check.sh

# The lab looks for programs in the system's directories first.
system_program() { PATH="/usr/sbin:/usr/bin:/sbin:/bin:$PATH" command -v "$1"; }

# The lab's accounts run Node.js: one below somebody's home is none to them.
usable_by_all() {
  local place
  place=$(system_program "$1") && place=$(readlink -f "$place") || return 1
  while [ "$place" != / ]; do
    case $(stat -c %A "$place") in *[xt]) ;; *) return 1 ;; esac
    place=$(dirname "$place")
  done
}

packages_needed() {
  local packages=("${DEBIAN_PACKAGES[@]}")
  if ! usable_by_all node || [ "$("$(system_program node)" -p 'parseInt(process.versions.node)')" -lt 18 ]; then
    packages+=(nodejs)
  fi
  usable_by_all npm || packages+=(npm)
  missing_of "${packages[@]}"
}

# A Python of the version that requirements.txt is made for, wherever the PATH leads.
find_python() {
  local name
  for name in python3.11 python3 /usr/bin/python3.11; do
    "$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || continue
    command -v "$name"
    return
  done
  return 1
}

# wanted_python, wanted_npm: what is to be installed, as the stamps of an earlier set-up have it.
wanted_python() { cat requirements.txt requirements-dev.txt | sha256sum | cut -d' ' -f1; }
wanted_npm() { sha256sum lab/node/package-lock.json | cut -d' ' -f1; }

has_python_packages() {
  [ "$(cat "$STATE_DIR/python" 2>/dev/null)" = "$(wanted_python)" ] && [ -x .venv/bin/airflow ] && ! was_moved
}
has_npm_packages() {
  [ "$(cat "$STATE_DIR/npm" 2>/dev/null)" = "$(wanted_npm)" ] && [ -d lab/node/node_modules/pm2 ]
}

# A virtual environment has its own path in its programs: moved or copied, they run another one, or none.
was_moved() {
  local named
  [ -e .venv ] || [ -L .venv ] || return 1
  [ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || return 0
  [ -e .venv/bin/airflow ] || return 1
  named=$(head -n 1 .venv/bin/airflow) && named=${named#\#!}
  [ "$(readlink -f "$(dirname "$named")" 2>/dev/null)" != "$(readlink -f .venv/bin)" ]
}

check_start() {
  local python
  check_machine "$PURPOSE" "$@"
  if [ $# -gt 0 ] || ! has_python_packages || ! has_npm_packages; then
    check_disk . "$REQUIRED_DISK_MIB" "the installation"
  fi
  if [ $# -gt 0 ] && [ "$(stat -c %d /usr)" != "$(stat -c %d .)" ]; then
    check_disk /usr "$REQUIRED_DISK_MIB" "Debian packages"
  fi
  if [ -L .venv ] && was_moved; then
    problem ".venv leads to $(readlink .venv), which does not work here: remove the link"
  fi
  if [ "$PURPOSE" = lab ] && python=$(find_python); then check_lab "$python"; fi
  report_problems "nothing was installed or changed"
}

install_debian_packages() {
  # On a machine without Python, what the lab needs is checked as soon as there is one, and before the long part.
  if [ "$PURPOSE" = lab ] && ! find_python >/dev/null && [ $# -gt 0 ]; then
    install_missing python3
    check_lab "$(find_python)"
    report_problems "nothing but Debian's python3 was installed, which tells why"
  fi
  [ $# -eq 0 ] || install_missing "$@"
}

ensure_system_users() {
  id sebenza >/dev/null 2>&1 && return
  need_root "creating the system user sebenza, who owns the lab's application"
  as_root useradd --system --home-dir /nonexistent --shell /bin/sh sebenza
}

install_python_packages() {
  has_python_packages && return
  say "installing Python packages into .venv"
  if was_moved; then
    say "the virtual environment in .venv was made elsewhere: making it anew"
    rm -rf .venv
  fi
  if [ ! -x .venv/bin/python ]; then
    "$(find_python || echo python3)" -m venv .venv || stop "python3 -m venv failed: Python 3.11 with venv is needed"
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check uv 2>/dev/null ||
    stop "cannot reach the Python package index: check the network, then run this again"
  # uv brings authorities of its own; the machine's are those of a proxy that it may be behind, and pip's and npm's.
  UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-true} .venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.txt -r requirements-dev.txt ||
    stop "Python packages could not be installed (see above): check the network and the disk, then run this again"
  mkdir -p "$STATE_DIR"
  wanted_python >"$STATE_DIR/python"
}

install_npm_packages() {
  has_npm_packages && return
  say "installing the lab's npm packages into lab/node"
  (cd lab/node && npm ci --silent --no-audit --no-fund) ||
    stop "npm packages could not be installed: check the network, then run this again"
  wanted_npm >"$STATE_DIR/npm"
}

missing=$(packages_needed)
# shellcheck disable=SC2086
check_start $missing
# shellcheck disable=SC2086
install_debian_packages $missing
ensure_system_users
install_python_packages
install_npm_packages
