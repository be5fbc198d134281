# database_canary_read.sh BIN SOCKET_DIR PORT DATABASE TABLE TOKEN TIMEOUT_SECONDS: waits until this very server has the row.
# Prints "yes" or "no".
cd /
PGHOST=$2 PGPORT=$3 PGUSER=$(id -un) PGDATABASE=$4 PGCONNECT_TIMEOUT=5 PGAPPNAME=sebenza-canary
export PGHOST PGPORT PGUSER PGDATABASE PGCONNECT_TIMEOUT PGAPPNAME
_bin=$1 _table=$5 _token=$6
_give_up_at=$(($(date +%s) + $7))
while :; do
  _found=$("$_bin/psql" -X -A -t -q -v ON_ERROR_STOP=1 -v table="$_table" -v token="$_token" 2>/dev/null <<'SQL'
SELECT 1 FROM :"table" WHERE token = :'token'
SQL
) || _found=
  if [ "$_found" = 1 ]; then
    echo yes
    exit 0
  fi
  [ "$(date +%s)" -lt "$_give_up_at" ] || break
  sleep 0.1
done
echo no
