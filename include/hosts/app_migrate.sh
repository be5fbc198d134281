# app_migrate.sh STATE_DIR ENVIRONMENT TOKEN HOLDER RELEASE_DIR ENV_FILE NODE_BIN_DIR PHASE: runs the release's migrations of one phase.
fence "$1" "$2" "$3" "$4"
cd "$5"
# The lock stays open in it: nobody else changes this host before the migration has ended, even if this shell is gone.
"$7/node" bin/migrate.js --settings "$6" up --phase "$8"
