# database_swap.sh STATE_DIR ENVIRONMENT TOKEN HOLDER MAJOR_VERSION HOST PORT USER DATABASE RESTORED ASIDE OID EXPIRES_AT PATIENCE_SECONDS
# Puts RESTORED (whose oid is OID) in the place of DATABASE, which is kept as ASIDE; the password is standard input's first line.
# Both names change in one transaction: killed anywhere, it leaves the state before or the state after, and is run again.
# Users are refused from its beginning to its end; when sessions can't be ended in PATIENCE_SECONDS they are let in again, exit 3.
fence "$1" "$2" "$3" "$4"
shift 4
_database=$5 _restored=$6 _aside=$7 _oid=$8 _patience=${10}
# A command that was held up on its way is not carried out by surprise.
[ "$(date +%s)" -le "$9" ] || fail "it came too late, nothing was changed: it was good until $9, this host's clock says $(date +%s)"
# The other way round it takes an exchange back.
case $_restored,$_aside in
"$_database"_rb_*,"$_database"_before_* | "$_database"_before_*,"$_database"_rb_*) ;;
*) fail "'$_restored' and '$_aside' are no names of a copy of $_database and of what it replaces" ;;
esac
IFS= read -r PGPASSWORD || :
# A database can't be renamed from inside.
PGHOST=$2 PGPORT=$3 PGUSER=$4 PGDATABASE=postgres PGCONNECT_TIMEOUT=10 PGAPPNAME=sebenza-swap
export PGPASSWORD PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
PATH=/usr/lib/postgresql/$1/bin:$PATH
# Begun, it goes on to one end or the other, whoever is gone.
trap '' HUP INT TERM PIPE
sql() { psql -X -A -t -q -v ON_ERROR_STOP=1 -v database="$_database" -v restored="$_restored" -v aside="$_aside" "$@"; }
oid_of() {
  sql -v name="$1" <<'SQL'
SELECT oid FROM pg_database WHERE datname = :'name'
SQL
}
now_ms() { date +%s%3N; }
done_as() {
  printf '{"state": "%s", "oid": %s, "interrupted_seconds": %s}\n' "$1" "$(oid_of "$_database")" \
    "$(awk -v ms="$2" 'BEGIN { printf "%.1f", ms / 1000 }')"
}
_live=$(oid_of "$_database") _copy=$(oid_of "$_restored") _old=$(oid_of "$_aside")
if [ "$_live" = "$_oid" ] && [ -z "$_copy" ] && [ -n "$_old" ]; then
  done_as already 0
  exit 0
fi
if [ -z "$_live" ] && [ "$_copy" = "$_oid" ] && [ -n "$_old" ]; then
  # Somebody has renamed the first by hand: the second is all that is missing.
  sql <<'SQL'
BEGIN;
ALTER DATABASE :"restored" RENAME TO :"database";
ALTER DATABASE :"database" ALLOW_CONNECTIONS true;
ALTER DATABASE :"aside" ALLOW_CONNECTIONS true;
COMMIT;
SQL
  done_as resumed 0
  exit 0
fi
if [ -z "$_live" ] || [ "$_copy" != "$_oid" ] || [ -n "$_old" ]; then
  fail "nothing was changed, the databases are not as expected: $_database has oid ${_live:-none}, $_restored ${_copy:-none} (expected $_oid), $_aside ${_old:-none}"
fi
_may=$(sql <<'SQL'
SELECT coalesce(bool_and(pg_has_role(d.datdba, 'MEMBER') AND (r.rolcreatedb OR r.rolsuper)), false)
FROM pg_database d, pg_roles r WHERE r.rolname = current_user AND d.datname IN (:'database', :'restored')
SQL
)
[ "$_may" = t ] || fail "nothing was changed: role $PGUSER must own $_database and have CREATEDB to rename it"

let_in() {
  sql <<'SQL'
ALTER DATABASE :"database" ALLOW_CONNECTIONS true;
ALTER DATABASE :"restored" ALLOW_CONNECTIONS true;
SQL
}
# Whatever breaks from here on, users are not kept out for it.
_is_over=no
trap '[ "$_is_over" = yes ] || let_in' EXIT
_began=$(now_ms)
sql <<'SQL'
ALTER DATABASE :"database" ALLOW_CONNECTIONS false;
ALTER DATABASE :"restored" ALLOW_CONNECTIONS false;
SQL
while :; do
  # One by one: a session that may not be ended must not keep the others.
  psql -X -A -t -q -v database="$_database" -v restored="$_restored" >/dev/null 2>&1 <<'SQL' || :
SELECT format('SELECT pg_terminate_backend(%s)', pid) FROM pg_stat_activity
WHERE datname IN (:'database', :'restored') AND pid <> pg_backend_pid() \gexec
SQL
  _said=$(sql 2>&1 <<'SQL'
BEGIN;
ALTER DATABASE :"database" RENAME TO :"aside";
ALTER DATABASE :"restored" RENAME TO :"database";
ALTER DATABASE :"aside" ALLOW_CONNECTIONS true;
ALTER DATABASE :"database" ALLOW_CONNECTIONS true;
COMMIT;
SQL
  ) && break
  # A connection that broke says nothing about the transaction.
  [ "$(oid_of "$_database")" != "$_oid" ] || break
  # Each try has waited up to 5 s itself (PostgreSQL's CountOtherDBBackends).
  if [ "$(($(now_ms) - _began))" -ge "$((_patience * 1000 - 5000))" ]; then
    _left=$(sql <<'SQL'
SELECT coalesce(string_agg(format('pid %s (%s, %s, %s)', pid, usename, application_name, state), ', '), 'none that can be seen')
FROM pg_stat_activity WHERE datname IN (:'database', :'restored') AND pid <> pg_backend_pid()
SQL
    ) || _left=unknown
    let_in
    _is_over=yes
    printf 'not exchanged, users are let in again after %s s: %s; sessions left: %s\n' "$((($(now_ms) - _began) / 1000))" "$(printf %s "$_said" | tr '\n' ' ')" "$_left" >&2
    exit 3
  fi
done
_is_over=yes
done_as swapped "$(($(now_ms) - _began))"
