# archive_scan_start.sh WORK_DIR JOB CONFIG STANZA BIN MODE XID TIMEOUT_SECONDS; standard input: WAL segments, the oldest first.
# Reads archived WAL, the newest segment first, detached, and writes what it finds as lines of JSON. MODE end: the last record
# and the last commit; it stops at the first segment that has one. MODE points: every named restore point. MODE xid: how the
# transaction XID has ended. dump_status.sh tells how it stands. Prints "started", "running" or "done". Changes nothing else.
_job=$1/$2
case $6 in end | points | xid) ;; *) fail "'$6' is no mode" ;; esac
case $7 in - | [0-9]*) ;; *) fail "'$7' is no transaction id" ;; esac
umask 077
mkdir -p "$_job"
grep -E '^[0-9A-F]{24}$' >"$_job/segments.$$" || fail "no segments came"
cat >"$_job/job.sh.$$" <<'JOB'
set -eu
umask 077
# Times are printed in the process's own time zone.
TZ=UTC LC_ALL=C
export TZ LC_ALL
_wal=$JOB/wal
clean_up() {
  _code=$?
  rm -rf "$_wal"
  [ "$_code" -eq 0 ] || echo "$_code" >"$JOB/failed"
}
trap clean_up EXIT
trap 'exit 143' TERM
rm -rf "$_wal" "$JOB/found.jsonl"
mkdir "$_wal"
: >"$JOB/found.jsonl"
_began=$(date +%s)
case $MODE in
  end) set -- ;;
  points) set -- --rmgr=XLOG --rmgr=Transaction ;;
  xid) set -- --rmgr=Transaction "--xid=$XID" ;;
esac
_next= _last_lsn=
sort -r "$JOB/segments" >"$JOB/order"
while IFS= read -r _segment <&3; do
  pgbackrest "--config=$CONFIG" "--stanza=$STANZA" --no-archive-async archive-get "$_segment" "$_wal/$_segment" >&2 ||
    { echo "WAL segment $_segment can't be read from the archive" >&2; exit 1; }
  # A record may go on in the following segment, which is there still, unless the history changes in between.
  _to=$_segment
  [ "$(printf %.8s "$_segment")" != "$(printf %.8s "$_next")" ] || _to=$_next
  # pg_waldump ends with an error where the WAL ends; what it has read until then counts.
  "$BIN/pg_waldump" --path="$_wal" "$@" "$_segment" "$_to" 2>>"$JOB/complaints" | awk -v segment="$_segment" '
    match($0, /lsn: [0-9A-F]+\/[0-9A-F]+/) {
      lsn = substr($0, RSTART + 5, RLENGTH - 5)
      last = lsn
      if ($0 ~ /^rmgr: Transaction/ && match($0, /desc: (COMMIT|ABORT)(_PREPARED)? /)) {
        what = substr($0, RSTART + 6, RLENGTH - 7)
        at = substr($0, RSTART + RLENGTH, 26)
        if (what ~ /^COMMIT/) { commit = lsn; committed_at = at }
        ended = sprintf("{\"what\": \"%s\", \"lsn\": \"%s\", \"at\": \"%s\"}", what, lsn, at)
        print "xid " ended
      }
      if ($0 ~ /^rmgr: XLOG/ && match($0, /desc: RESTORE_POINT /)) {
        name = substr($0, RSTART + RLENGTH)
        gsub(/[\\"]/, "\\\\&", name)
        printf "points {\"what\": \"point\", \"lsn\": \"%s\", \"name\": \"%s\", \"after\": \"%s\"}\n", lsn, name, committed_at
      }
    }
    END { printf "end {\"what\": \"end\", \"segment\": \"%s\", \"lsn\": \"%s\", \"commit\": \"%s\", \"at\": \"%s\"}\n", segment, last, commit, committed_at }
  ' >"$JOB/seen"
  # The first word is the mode that asks for the line.
  sed -n "s/^$MODE //p" "$JOB/seen" >>"$JOB/found.jsonl"
  [ "$MODE" != end ] || ! grep -q '"commit": "[0-9A-F]' "$JOB/seen" || break
  [ -z "$_next" ] || rm -f "$_wal/$_next"
  _next=$_segment
done 3<"$JOB/order"
printf '{"seconds": %s}\n' "$(($(date +%s) - _began))" >"$JOB/result.json.part"
mv "$JOB/result.json.part" "$JOB/result.json"
JOB
# The detached job inherits the lock: whoever comes second finds it at work.
exec 8>>"$_job/lock"
if ! flock -w 1 8; then
  rm -f "$_job"/*.$$
  echo running
elif [ -f "$_job/result.json" ]; then
  rm -f "$_job"/*.$$
  echo done
else
  for _file in segments job.sh; do mv "$_job/$_file.$$" "$_job/$_file"; done
  rm -f "$_job/failed"
  setsid env JOB="$_job" CONFIG="$3" STANZA="$4" BIN="$5" MODE="$6" XID="$7" timeout -k 10 "$8" sh "$_job/job.sh" >"$_job/log" 2>&1 </dev/null &
  echo started
fi
