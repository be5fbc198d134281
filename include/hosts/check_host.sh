# check_host.sh STATE_DIR ENVIRONMENT PROGRAM... -- DIRECTORY...: what every host is asked. Changes nothing.
# Lines of parts: a program and where it is; a directory, what of it exists, whether it may be written, owner and mode;
# the file systems below the directories.
_state=$1 _environment=$2
shift 2
printf '== identity\n%s %s\n' "$(id -un)" "$(id -gn)"
printf '== programs\n'
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  printf '%s\t%s\n' "$1" "$(command -v "$1" || echo '!missing')"
  shift
done
[ $# -eq 0 ] || shift
# Before coreutils 8.24, sync ignores a file argument, says so, and flushes everything.
printf '== sync\n'
if [ -z "$(sync /etc/passwd 2>&1)" ]; then echo yes; else echo no; fi
printf '== temporary\n%s %s\n' "${TMPDIR:-/tmp}" "$(if [ -w "${TMPDIR:-/tmp}" ]; then echo yes; else echo no; fi)"
printf '== directories\n'
for _dir in "$@"; do
  _at=$_dir
  while [ ! -e "$_at" ]; do _at=$(dirname "$_at"); done
  _may=no
  if [ -d "$_at" ] && [ -w "$_at" ] && [ -x "$_at" ]; then _may=yes; fi
  printf '%s\t%s\t%s\t%s\n' "$_dir" "$_at" "$_may" "$(stat -L -c '%U:%G %a' "$_at")"
done
printf '== disk\n'
for _dir in / "$@"; do
  while [ ! -e "$_dir" ]; do _dir=$(dirname "$_dir"); done
  printf '%s\t%s\n' "$_dir" "$(df -Pk "$_dir" | awk 'NR == 2 {print $2, $3, $4, $6}')"
done
printf '== fence\n'
cat "$_state/fence-$_environment" 2>/dev/null || if [ -e "$_state/fence-$_environment" ]; then echo '!unreadable'; else echo '!none'; fi
