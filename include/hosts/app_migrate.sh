# app_migrate.sh STATE_DIR ENVIRONMENT TOKEN HOLDER RELEASE_DIR ENV_FILE NODE_BIN_DIR PHASE LOCK_TIMEOUT_MS STATEMENT_TIMEOUT_MS
# Runs the release's migrations of one phase. Prints what was applied, as JSON, also before a failure.
# Exit 4: a lock was not to be had, the schema is as before. Exit 5: half-applied, a person must look.
fence "$1" "$2" "$3" "$4"
shift 4
cd "$1"
# The lock stays open in it: nobody else changes this host before the migration has ended, even if this shell is gone.
"$3/node" bin/migrate.js --settings "$2" --json --lock-timeout-ms "$5" --statement-timeout-ms "$6" up --phase "$4"
