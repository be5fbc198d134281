# database_demote.sh STATE_DIR ENVIRONMENT TOKEN HOLDER DATA PRIMARY_HOST PRIMARY_PORT USER SLOT
# From its next start on, whoever starts it, this server is a replica: of PRIMARY_HOST, or of nobody yet ("-").
# SLOT "-": it uses none. What runs is not touched. The password of USER is standard input's first line.
fence "$1" "$2" "$3" "$4"
_state=$1
shift 4
cd /
umask 077
_data=$1
[ -f "$_data/PG_VERSION" ] || fail "there is no cluster in $_data"
if [ "$2" != - ]; then
  case "$_state$2$3$4$5" in *[!A-Za-z0-9_./:-]*) fail "unexpected characters in '$_state', '$2', '$3', '$4' or '$5'" ;; esac
  IFS= read -r _password || :
  # libpq, The Password File: colons and backslashes are escaped.
  printf '*:*:*:%s:%s\n' "$4" "$(printf %s "$_password" | sed 's/[\\:]/\\&/g')" | write_atomically "$_state/replication.pgpass" 600
  {
    # What an earlier recovery or primary was told must not count again. The last line of a name counts.
    grep -Ev '^[[:space:]]*(primary_conninfo|primary_slot_name|recovery_target[a-z_]*)[[:space:]]*=' "$_data/postgresql.auto.conf" || :
    printf "primary_conninfo = 'host=%s port=%s user=%s passfile=%s connect_timeout=3'\n" "$2" "$3" "$4" "$_state/replication.pgpass"
    [ "$5" = - ] || printf "primary_slot_name = '%s'\n" "$5"
  } | write_atomically "$_data/postgresql.auto.conf" 600
fi
: | write_atomically "$_data/standby.signal" 600
