#!/bin/sh
# PostgreSQL for Airflow's metadata and the ledger. Makes the cluster at the first start, and brings roles, passwords and
# databases to what the secrets say at each: a password is changed by changing its file and starting again.
set -eu
secret() { cat "/run/secrets/$1"; }

if [ ! -e "$PGDATA/PG_VERSION" ]; then
  # Made beside and moved: a cluster that exists is a whole one, whenever this was killed.
  rm -rf "$PGDATA.new"
  initdb --pgdata "$PGDATA.new" --username postgres --auth-local peer --auth-host scram-sha-256 \
    --encoding UTF8 --locale C.UTF-8 --data-checksums >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA.new/pg_hba.conf"
  mv "$PGDATA.new" "$PGDATA"
fi

# On the socket only, as long as roles are not what they should be.
pg_ctl start --wait --silent --pgdata "$PGDATA" --options "-c listen_addresses= -c unix_socket_directories=/run/postgresql"
for name in airflow ledger; do
  # The password reaches psql by its environment and SQL by psql's quoting: never as an argument, never in a log.
  PASSWORD=$(secret "${name}_database_password") psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -v name="$name" \
    --username postgres --host /run/postgresql >/dev/null <<'SQL'
\getenv password PASSWORD
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SELECT format('CREATE ROLE %I LOGIN', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'name', :'password') \gexec
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'name')
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', :'name') \gexec
SQL
done
pg_ctl stop --wait --silent --mode fast --pgdata "$PGDATA"

exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql \
  -c max_connections="${SEBENZA_DATABASE_CONNECTIONS:-200}" -c timezone=UTC -c log_connections=off
