# point_swap.sh STATE_DIR ENVIRONMENT TOKEN HOLDER DATA RESTORED ASIDE BIN SYSTEM_IDENTIFIER [may-be-gone]
# Puts RESTORED, a whole cluster beside, in the place of DATA, which is kept as ASIDE. Neither may run. Killed anywhere, it is
# run again. With "may-be-gone" there may be no DATA at all: then ASIDE is empty. Prints "swapped" or "already".
fence "$1" "$2" "$3" "$4"
shift 4
cd /
umask 077
LC_ALL=C
export LC_ALL
_data=$1 _restored=$2 _aside=$3 _bin=$4
case $_restored in "$_data".restored-????????????) ;; *) fail "'$_restored' is no name of a copy of $_data" ;; esac
case $_aside in "$_data".before-????????????) ;; *) fail "'$_aside' is no name for $_data moved aside" ;; esac
if [ -d "$_data" ] && [ -d "$_aside" ] && [ ! -d "$_restored" ]; then
  echo already
  exit 0
fi
[ -d "$_restored" ] || fail "there is no restored copy $_restored: nothing was moved"
if [ "${6:-}" = may-be-gone ] && [ ! -d "$_data" ] && [ ! -d "$_aside" ]; then mkdir "$_aside"; fi
[ -d "$_data" ] || [ -d "$_aside" ] || fail "there is neither $_data nor $_aside: nothing was moved"
if [ -d "$_data" ] && [ -d "$_aside" ]; then fail "$_aside is there already: nothing was moved"; fi
if [ -d "$_data" ] && "$_bin/pg_ctl" status -D "$_data" >/dev/null 2>&1; then fail "a server runs in $_data: it is stopped and fenced first"; fi
if [ -f "$_restored/postmaster.pid" ]; then
  "$_bin/pg_ctl" stop --pgdata "$_restored" --mode fast --wait --timeout 100 >&2 9>&- || fail "the restored server does not stop: nothing was moved"
fi
_found=$("$_bin/pg_controldata" -D "$_restored" | awk -F': *' '
  $1 == "Database cluster state" { state = $2 } $1 == "Database system identifier" { id = $2 } END { print id, state }')
[ "$_found" = "$5 shut down" ] || fail "$_restored is '$_found', not the cluster $5, shut down: nothing was moved"
# What the restore was told counts for the restore only.
grep -Ev '^[[:space:]]*(restore_command|archive_mode|primary_conninfo|primary_slot_name|recovery_target[a-z_]*)[[:space:]]*=' \
  "$_restored/postgresql.auto.conf" >"$_restored/auto.conf.part" || :
mv -f "$_restored/auto.conf.part" "$_restored/postgresql.auto.conf"
rm -f "$_restored/standby.signal" "$_restored/recovery.signal"
sync "$_restored/postgresql.auto.conf" "$_restored"
# Moved aside, never deleted; killed between the two, the next attempt goes on here.
[ ! -d "$_data" ] || mv "$_data" "$_aside"
mv "$_restored" "$_data"
# Where people could look at it.
rm -rf "/tmp/sebenza-${_restored##*.}"
sync "$(dirname "$_data")"
echo swapped
