# point_unswap.sh STATE_DIR ENVIRONMENT TOKEN HOLDER DATA RESTORED ASIDE BIN: takes point_swap.sh back, wherever it was: what was
# the cluster is it again, the restored copy is beside it again. Neither may run. Prints "taken back" or "unchanged".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
case $2 in "$1".restored-????????????) ;; *) fail "'$2' is no name of a copy of $1" ;; esac
case $3 in "$1".before-????????????) ;; *) fail "'$3' is no name for $1 moved aside" ;; esac
if [ ! -d "$3" ]; then
  echo unchanged
  exit 0
fi
if [ -d "$1" ]; then
  if "$4/pg_ctl" status -D "$1" >/dev/null 2>&1; then fail "a server runs in $1: it is stopped and fenced first"; fi
  [ ! -d "$2" ] || fail "$2 is there, and $3 too: nothing was moved; find out which is which"
  mv "$1" "$2"
fi
mv "$3" "$1"
sync "$(dirname "$1")"
echo "taken back"
