# Sourced: installs Debian packages without starting their services. The caller defines say and stop.

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

need_root() {
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null && sudo -n true 2>/dev/null && return
  stop "$1 needs root: run this as root, or give this user sudo without a password"
}

# missing_of PACKAGE...: those that are not installed.
missing_of() {
  local present
  present=$(mktemp)
  dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
    awk '$2 == "installed" {print $1}' | sort >"$present"
  printf '%s\n' "$@" | sort | comm -23 - "$present"
  rm -f "$present"
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

# install_missing PACKAGE...: installs what is not there; quick when nothing is to do.
install_missing() {
  local missing log
  missing=$(echo $(missing_of "$@"))
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
