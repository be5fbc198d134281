# Sourced by setup.sh: what stops a start, found before anything is installed and said all at once. The caller defines
# say and stop, and has sourced packages.sh. Needs bash and what every Debian has; the lab's own part needs Python.

problems=()
problem() { problems+=("$1"); }

# report_problems WHAT_WAS_DONE: ends the set-up if there are any.
report_problems() {
  [ "${#problems[@]}" -gt 0 ] || return 0
  say "can't start, $1:" >&2
  printf '  - %s\n' "${problems[@]}" >&2
  exit 1
}

# check_machine PURPOSE MISSING_PACKAGE...: what can be told without Python.
check_machine() {
  local purpose=$1 release machine
  shift
  if [ "$purpose" = lab ] && [ "$(id -u)" -ne 0 ]; then
    problem "not root: the lab's sshd, PostgreSQL and Redis run under accounts of their own; use sudo make, or log in as root"
  elif [ $# -gt 0 ] && ! can_be_root; then
    problem "installing Debian packages ($*) needs root: run this as root, or give this user sudo without a password"
  fi
  release=$(. /etc/os-release 2>/dev/null && echo "$ID $VERSION_ID")
  # Where all packages are there, somebody has seen to it.
  if [ $# -gt 0 ] && [ "$release" != "debian 12" ]; then
    problem "this is ${release:-no Debian}, and the packages that are missing ($*) are Debian 12's: use a machine with Debian 12, or a container of it"
  fi
  machine=$(uname -m)
  case $machine in
    x86_64 | aarch64) ;;
    *) problem "this processor ($machine) has no Python packages that are built: use an x86_64 or aarch64 machine" ;;
  esac
  [ -w . ] || problem "$PWD can't be written: use a checkout that this user owns"
}

# check_disk PATH MIB WHY
check_disk() {
  local free_mib
  free_mib=$(df -Pm "$1" | awk 'NR==2 {print $4}')
  [ "$free_mib" -ge "$2" ] || problem "too little disk: ${free_mib} MiB free in $(realpath "$1"), $2 MiB needed for $3: free some space"
}

# check_lab PYTHON: settings, ports, another lab; what lab/start_check.py says.
check_lab() {
  local line found
  found=$(PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1 "$1" -m lab.start_check) ||
    stop "what the lab needs could not be checked (see above)"
  while IFS= read -r line; do
    [ -z "$line" ] || problem "$line"
  done <<<"$found"
}

can_be_root() {
  [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}
