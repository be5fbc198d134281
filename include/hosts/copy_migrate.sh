# copy_migrate.sh STATE_DIR ENVIRONMENT TOKEN HOLDER RELEASE_DIR NODE_BIN_DIR LOCK_TIMEOUT_MS STATEMENT_TIMEOUT_MS
# Runs the release's expand migrations on the database to which the settings on standard input lead: a copy, before anybody uses
# it. Prints what was applied, as JSON. Nothing of the settings stays on this host.
fence "$1" "$2" "$3" "$4"
shift 4
umask 077
_settings=$(mktemp)
trap 'rm -f "$_settings"' EXIT
cat >"$_settings"
[ -s "$_settings" ] || fail "no settings came"
cd "$1"
"$2/node" bin/migrate.js --settings "$_settings" --json --lock-timeout-ms "$3" --statement-timeout-ms "$4" up --phase expand
