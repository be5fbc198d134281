# check_backup.sh WORK_DIR CONFIG STANZA MAJOR_VERSION SOCKET_DIR PORT DATA STATE_DIR: what backups, restores and a recovery need on
# a database host, asked as the owner of the cluster; standard input's first line is a salt. Changes nothing. Lines of parts; secrets leave as salted hashes only.
IFS= read -r _salt
printf '== programs\n'
for _program in pgbackrest check_pgbackrest fincore flock setsid psql; do
  printf '%s\t%s\n' "$_program" "$(command -v "$_program" || echo '!missing')"
done
printf '== version\n%s\n' "$(pgbackrest version 2>/dev/null || :)"
printf '== config\n'
if [ -r "$2" ]; then stat -c '%U %a' "$2"; elif [ -e "$2" ]; then echo '!unreadable'; else echo '!missing'; fi
hashed() { sed -n "s/^ *$1 *= *//p" "$2" 2>/dev/null | head -n 1 | tr -d '\n' | { printf '%s' "$_salt"; cat; } | sha256sum | cut -d' ' -f1; }
printf '== cipher\n%s\n' "$(hashed repo1-cipher-pass "$2")"
printf '== key\n%s\n' "$(hashed repo1-s3-key-secret "$2")"
printf '== work_dir\n'
if mkdir -p "$1" 2>/dev/null && [ -w "$1" ]; then stat -c '%U %a' "$1"; else echo '!not writable'; fi
printf '== beside\n'
if [ -w "$(dirname "$7")" ]; then echo writable; else echo '!not writable'; fi
# When the server was started (postmaster.pid, line 3), then when the guard ran last, and whom it would ask.
printf '== guard\n%s\n%s\n' "$(sed -n 3p "$7/postmaster.pid" 2>/dev/null || :)" "$(cat "$8/guard-ran" 2>/dev/null || :)"
PGHOST=$5 PGPORT=$6 PGDATABASE=postgres PGCONNECT_TIMEOUT=5 PGOPTIONS='-c statement_timeout=5000'
export PGHOST PGPORT PGDATABASE PGCONNECT_TIMEOUT PGOPTIONS
printf '== settings\n'
psql -X -A -t -q 2>&1 <<'SQL' || :
SELECT name || E'\t' || setting FROM pg_settings
WHERE name IN ('archive_mode', 'archive_command', 'archive_timeout', 'data_checksums', 'hot_standby_feedback', 'wal_level')
UNION ALL SELECT E'in_recovery\t' || pg_is_in_recovery()
UNION ALL SELECT E'superuser\t' || rolsuper FROM pg_roles WHERE rolname = current_user;
SQL
printf '== info\n'
timeout 15 pgbackrest "--config=$2" "--stanza=$3" --io-timeout=5 info --output=json 2>&1 || :
