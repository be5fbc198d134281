#!/usr/bin/env bash
# Makes the secret files that docker-compose.yaml mounts, each once: what exists is left alone.
# Only the directory keeps others out: containers read the files under accounts of their own, so these are readable.
set -euo pipefail
cd "$(dirname "$0")/.."

DIR=${SEBENZA_SECRETS_DIR:-secrets}
ENVIRONMENTS_DIR=${SEBENZA_ENVIRONMENTS_DIR:-include/environments}
umask 077
mkdir -p "$DIR/connections" "${SEBENZA_TRUST_DIR:-trust}"
chmod 700 "$DIR"
chmod 755 "${SEBENZA_TRUST_DIR:-trust}"

random() { openssl rand -hex "$1"; }
# keep NAME: standard input becomes the secret, unless there is one.
keep() {
  if [ -e "$DIR/$1" ]; then cat >/dev/null; return; fi
  cat >"$DIR/.new"
  chmod 644 "$DIR/.new"
  mv "$DIR/.new" "$DIR/$1"
  echo "secrets: $DIR/$1 is made"
}

random 24 | keep airflow_database_password
random 24 | keep ledger_database_password
random 24 | keep broker_password
openssl rand -base64 32 | tr '+/' '-_' | keep fernet_key
random 32 | keep api_secret_key
random 48 | keep jwt_secret
printf 'postgresql+psycopg2://airflow:%s@database:5432/airflow\n' "$(cat "$DIR/airflow_database_password")" | keep metadata_url
printf 'redis://:%s@broker:6379/0\n' "$(cat "$DIR/broker_password")" | keep broker_url
# Beside the tasks in Redis, not in the metadata: so workers need no way into that.
printf 'redis://:%s@broker:6379/1\n' "$(cat "$DIR/broker_password")" | keep result_backend
printf '[{"username": "admin", "role": "Admin", "password": "%s"}]\n' "$(random 12)" | keep users.json

# The ledger is what every place needs and this script knows; the rest is added by hand (docs/installation.md).
for place in core default $(sed -n 's/^kind: environment$/x/p; s/^name: //p' "$ENVIRONMENTS_DIR"/*.yaml | awk '/^x$/ {e = 1; next} e {print; e = 0}'); do
  keep "connections/$place.yaml" <<YAML
# Airflow connections of $place: \`python -m sebenza_ops.environments connections\` lists which it needs.
ops_ledger:
  conn_type: postgres
  host: database
  login: ledger
  password: $(cat "$DIR/ledger_database_password")
  schema: ledger
YAML
done
chmod 755 "$DIR/connections"
