# app_migration_status.sh RELEASE_DIR ENV_FILE NODE_BIN_DIR: the migrations of the release and of its database, as JSON.
cd "$1"
"$3/node" bin/migrate.js --settings "$2" --json status
