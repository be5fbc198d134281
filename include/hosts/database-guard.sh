#!/bin/sh
# database-guard.sh COMMAND...: run before a database server's start (systemd: ExecStartPre), or in front of it, as the
# owner of the cluster. A former primary whose site was lost must not take writes when it comes back: before it starts as
# a primary, this asks the other site's server. Settings come from the environment:
#   GUARD_DATA       the data directory
#   GUARD_BIN        PostgreSQL's programs
#   GUARD_WITNESSES  "HOST:PORT HOST:PORT": the database servers of the other site
#   GUARD_USER       a role that may connect there to `postgres` without a password (the endpoint's health check has one)
#   GUARD_SECONDS    how long it waits for an answer; default 30
#   GUARD_ALONE_FILE a file that lets it start without any answer: somebody knows that the other site does not serve. It
#                    counts for the next start only. Beside it the file guard-ran tells when it ran, and whom it would ask
# It starts as it is when it is a replica, when a witness of the same cluster is a replica, or when a witness answers that
# does not have a newer history. It is made a replica of nobody, which takes no writes, when a witness is a primary with a
# newer history, and when none answers: no data is not good news. It then waits for `rejoin` or `failback`.
set -eu
# Nothing is exported: the server would inherit it.
cd /
say() { printf 'database-guard: %s\n' "$*" >&2; }
go_on() {
  [ "$#" -eq 0 ] && exit 0
  exec "$@"
}
be_replica() {
  say "$1: it starts as a replica of nobody, and takes no writes. Run failback or rejoin; or, sure that nothing else serves, remove $GUARD_DATA/standby.signal and create ${GUARD_ALONE_FILE:-a GUARD_ALONE_FILE}"
  : >"$GUARD_DATA/standby.signal"
  sync "$GUARD_DATA"
}
# By this check_environment sees that no start goes past it. A full disk must not keep a server from starting.
note_run() {
  mkdir -p "$1" && printf '%s %s\n' "$(date +%s)" "${GUARD_WITNESSES:-}" >"$1/guard-ran"
}
if [ -n "${GUARD_ALONE_FILE:-}" ]; then
  note_run "$(dirname "$GUARD_ALONE_FILE")" || say "it can't note in $(dirname "$GUARD_ALONE_FILE") that it ran"
fi
_alone=
if [ -n "${GUARD_ALONE_FILE:-}" ] && [ -e "$GUARD_ALONE_FILE" ]; then
  _alone=yes
  rm -f "$GUARD_ALONE_FILE"
fi
if [ -e "$GUARD_DATA/standby.signal" ] || [ ! -f "$GUARD_DATA/PG_VERSION" ]; then
  go_on "$@"
fi
if [ -z "${GUARD_WITNESSES:-}" ]; then
  go_on "$@"
fi
_control=$(LC_ALL=C "$GUARD_BIN/pg_controldata" -D "$GUARD_DATA")
_system=$(printf '%s\n' "$_control" | sed -n 's/^Database system identifier: *//p')
_timeline=$(printf '%s\n' "$_control" | sed -n "s/^Latest checkpoint's TimeLineID: *//p")
# A promotion writes its history file at once, its checkpoint later.
for _file in "$GUARD_DATA"/pg_wal/????????.history; do
  [ -e "$_file" ] || continue
  _found=$(printf '%d' "0x$(basename "$_file" .history)")
  [ "$_found" -le "$_timeline" ] || _timeline=$_found
done
# What it is asked: the cluster, whether it takes writes, and its history.
_question="SELECT (SELECT system_identifier FROM pg_control_system()), pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN 0
    ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END"
_give_up_at=$(($(date +%s) + ${GUARD_SECONDS:-30}))
_answered=
while [ -z "$_answered" ]; do
  for _witness in $GUARD_WITNESSES; do
    _said=$(PGCONNECT_TIMEOUT=3 PGAPPNAME=sebenza-guard "$GUARD_BIN/psql" -X -A -t -F ' ' -h "${_witness%:*}" -p "${_witness##*:}" -U "$GUARD_USER" -d postgres \
      -c "$_question" 2>/dev/null) || continue
    _cluster=${_said%% *}
    _rest=${_said#* }
    _recovering=${_rest%% *}
    _newer=${_rest##* }
    if [ "$_cluster" != "$_system" ]; then
      say "$_witness has another cluster ($_cluster), and is no witness for $_system"
      continue
    fi
    if [ "$_recovering" = f ] && [ "$_newer" -gt "$_timeline" ]; then
      be_replica "$_witness is the primary, on timeline $_newer; this one is on $_timeline"
      go_on "$@"
    fi
    _answered=yes
  done
  [ -z "$_answered" ] || go_on "$@"
  if [ -n "$_alone" ]; then
    say "no server of the other site answers; this start was allowed by $GUARD_ALONE_FILE"
    go_on "$@"
  fi
  [ "$(date +%s)" -lt "$_give_up_at" ] || break
  sleep 1
done
be_replica "no server of the other site answers ($GUARD_WITNESSES)"
go_on "$@"
