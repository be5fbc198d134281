# database_wal_end.sh BIN DATA TIMELINE FROM_LSN: what a server that is down has in its WAL beyond FROM_LSN; changes nothing.
# Prints "END_LSN COMMITS FIRST_COMMIT|LAST_COMMIT" of it, or "unknown WHY". Times are as pg_waldump prints them.
cd /
# The sessions' time zone is the host's.
TZ=UTC LC_ALL=C
export TZ LC_ALL
_errors=$(mktemp)
trap 'rm -f "$_errors"' EXIT
# It ends with an error where the WAL ends.
_found=$(timeout 25 "$1/pg_waldump" --path="$2/pg_wal" --timeline="$3" --start="$4" 2>"$_errors" | awk '
  function padded(lsn, parts) {
    split(lsn, parts, "/")
    while (length(parts[1]) < 8) parts[1] = "0" parts[1]
    while (length(parts[2]) < 8) parts[2] = "0" parts[2]
    return parts[1] "/" parts[2]
  }
  match($0, /lsn: [0-9A-F]+\/[0-9A-F]+/) {
    lsn = substr($0, RSTART + 5, RLENGTH - 5)
    last = lsn
    records++
    if ($0 ~ /^rmgr: Transaction/ && match($0, /desc: COMMIT(_PREPARED)? /)) {
      commits++
      at = substr($0, RSTART + RLENGTH, 26)
      if (commits == 1) first = at
      final = at
    }
  }
  END { if (records) printf "%s %d %s|%s", padded(last), commits, first, final }')
if [ -n "$_found" ]; then
  printf '%s\n' "$_found"
elif grep -q 'could not find a valid record' "$_errors"; then
  # Nothing is there but what the other one has.
  printf '%s 0 |\n' "$4"
else
  printf 'unknown %s\n' "$(tr '\n' ' ' <"$_errors")"
fi
