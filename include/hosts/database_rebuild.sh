# database_rebuild.sh STATE_DIR ENVIRONMENT TOKEN HOLDER RUN BIN DATA CONFIG_FILE SOURCE_HOST SOURCE_PORT USER SLOT FORK_SEGMENT NEED_KIB METHOD TIMEOUT_SECONDS
# Makes a former primary, stopped and fenced, fit to follow SOURCE_HOST, detached: rewound (METHOD rewind), or copied anew
# beside when that can't be done. What it alone had is kept: its WAL from FORK_SEGMENT on, or its whole directory.
# One of the same run that works or is done is left alone; dump_status.sh tells how it stands. Prints "started", "running" or "done".
fence "$1" "$2" "$3" "$4"
_state=$1
shift 4
_job=$_state/jobs/$1
case "$_state$7$5$6$8" in *[!A-Za-z0-9_./:-]*) fail "unexpected characters in '$_state', '$7', '$5', '$6' or '$8'" ;; esac
umask 077
mkdir -p "$_job"
IFS= read -r _password || :
printf '*:*:*:%s:%s\n' "$7" "$(printf %s "$_password" | sed 's/[\\:]/\\&/g')" | write_atomically "$_state/replication.pgpass" 600
cat >"$_job/rebuild.sh.$$" <<'REBUILD'
set -eu
umask 077
_job=$1 _bin=$2 _data=$3 _config=$4 _host=$5 _port=$6 _user=$7 _slot=$8 _segment=$9
shift 9
_need_kib=$1 _method=$2 _passfile=$3
cd /
LC_ALL=C
export LC_ALL
say() { printf '%s\n' "$*" >&2; }
ended() {
  _code=$?
  if [ "$_code" -ne 0 ]; then
    # Whatever it is now, it must not come back as a primary.
    [ ! -f "$_data/PG_VERSION" ] || : >"$_data/standby.signal"
    echo "$_code" >"$_job/failed"
  fi
}
trap ended EXIT
trap 'exit 143' TERM
_began=$(date +%s)
_source="host=$_host port=$_port user=$_user passfile=$_passfile connect_timeout=5"
_name=$(basename "$_job")
_kept=$_data.diverged-$_name _fresh=$_data.new-$_name _aside=$_data.before-$_name
settings() {
  grep -Ev '^[[:space:]]*(primary_conninfo|primary_slot_name|recovery_target[a-z_]*)[[:space:]]*=' "$1/postgresql.auto.conf" >"$1/auto.conf.part" || :
  printf "primary_conninfo = '%s'\nprimary_slot_name = '%s'\n" "$_source" "$_slot" >>"$1/auto.conf.part"
  mv -f "$1/auto.conf.part" "$1/postgresql.auto.conf"
  : >"$1/standby.signal"
  sync "$1/postgresql.auto.conf" "$1/standby.signal" "$1"
}
free_kib() { df -Pk "$(dirname "$_data")" | awk 'NR == 2 {print $4}'; }
rewind() {
  [ "$_method" = rewind ] && [ -f "$_data/PG_VERSION" ] || return 1
  # Rows that only this server has are in this WAL, and nowhere else.
  if [ "$_segment" != - ] && [ ! -d "$_kept" ]; then
    rm -rf "$_kept.part"
    mkdir "$_kept.part"
    for _file in "$_data"/pg_wal/????????????????????????; do
      _base=$(basename "$_file")
      [ "$(printf '%s\n%s\n' "$_segment" "$_base" | sort | head -n 1)" = "$_segment" ] || continue
      [ "$(printf %.8s "$_base")" = "$(printf %.8s "$_segment")" ] || continue
      cp -p "$_file" "$_kept.part/" || return 1
    done
    mv "$_kept.part" "$_kept"
  fi
  # pg_rewind lets one that was killed recover first, in single-user mode, which knows no replicas. Its service is fenced.
  rm -f "$_data/standby.signal"
  set --
  # What is not in pg_wal any more may be in the archive.
  [ -z "$("$_bin/postgres" -D "$_data" -c config_file="$_config" -C restore_command 2>/dev/null)" ] || set -- --restore-target-wal
  "$_bin/pg_rewind" "$@" --target-pgdata="$_data" --source-server="$_source dbname=postgres" --config-file="$_config" --progress >&2 || {
    : >"$_data/standby.signal"
    return 1
  }
  settings "$_data"
}
if [ -d "$_aside" ] && [ -f "$_data/standby.signal" ]; then
  _how=copy
elif [ ! -d "$_aside" ] && rewind; then
  _how=rewind
else
  _how=copy
  say "rewinding is not possible, copying anew"
  if [ ! -f "$_fresh/standby.signal" ] || [ ! -e "$_fresh.whole" ]; then
    # An attempt's own, half made.
    rm -rf "$_fresh" "$_fresh.whole"
    if [ "$(free_kib)" -lt "$_need_kib" ]; then
      say "disk full: $(free_kib) KiB free beside $_data, $_need_kib KiB needed for a copy; nothing was moved"
      exit 1
    fi
    "$_bin/pg_basebackup" --dbname="$_source" --pgdata="$_fresh" --slot="$_slot" --wal-method=stream --checkpoint=fast --no-password >&2
    settings "$_fresh"
    : >"$_fresh.whole"
    sync "$_fresh.whole"
  fi
  # Moved aside, never deleted; killed between the two, the next attempt goes on here.
  if [ -e "$_data" ] && [ ! -d "$_aside" ]; then mv "$_data" "$_aside"; fi
  mv "$_fresh" "$_data"
  rm -f "$_fresh.whole"
fi
if [ "$_how" = copy ]; then _kept=$_aside; elif [ ! -d "$_kept" ]; then _kept=; fi
printf '{"method": "%s", "seconds": %s, "kept": "%s"}\n' "$_how" "$(($(date +%s) - _began))" "$_kept" >"$_job/result.json.part"
mv "$_job/result.json.part" "$_job/result.json"
REBUILD
# The detached job inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job/rebuild.sh.$$"
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job/rebuild.sh.$$"
  echo done
else
  if "$2/pg_ctl" status -D "$3" >/dev/null 2>&1; then fail "a server runs in $3: it is stopped and fenced first"; fi
  mv "$_job/rebuild.sh.$$" "$_job/rebuild.sh"
  rm -f "$_job/failed"
  setsid timeout -k 30 "${12}" sh "$_job/rebuild.sh" "$_job" "$2" "$3" "$4" "$5" "$6" "$7" "$8" "$9" "${10}" "${11}" "$_state/replication.pgpass" >"$_job/log" 2>&1 </dev/null 9>&- &
  echo started
fi
