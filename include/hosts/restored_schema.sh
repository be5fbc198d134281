# restored_schema.sh RELEASE_DIR NODE_BIN_DIR: the migrations of the release and of the database to which the settings on
# standard input lead, as JSON. Nothing of the settings stays on this host.
umask 077
_settings=$(mktemp)
trap 'rm -f "$_settings"' EXIT
cat >"$_settings"
[ -s "$_settings" ] || fail "no settings came"
cd "$1"
"$2/node" bin/migrate.js --settings "$_settings" --json status
