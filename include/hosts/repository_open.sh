# repository_open.sh WORK_DIR JOB CONFIG STANZA DATA BIN DATABASE: makes a copy of CONFIG, pgBackRest's on this host, that opens the
# repository with other keys: the job's file pgbackrest.conf, for its owner alone. Standard input, three lines: the passphrase, the
# key id, its secret. pgBackRest reads WAL only beside a cluster that it is of: where DATA has none, or another one, the newest
# set's is restored into the job's directory, without the files of DATABASE. Prints the file's path. repository_close.sh removes
# both. Run as the owner of the cluster.
case $2 in '' | */* | .*) fail "'$2' is no job" ;; esac
_job=$1/$2
IFS= read -r _passphrase || :
IFS= read -r _key || :
IFS= read -r _secret || :
[ -n "$_passphrase" ] && [ -n "$_secret" ] || fail "the passphrase, the key and its secret are needed on standard input"
grep -q '^\[global\]' "$3" || fail "$3 is no configuration of pgBackRest that $(id -un) can read"
umask 077
mkdir -p "$_job"
grep -Ev '^[[:space:]]*repo1-(cipher-pass|s3-key|s3-key-secret)[[:space:]]*=' "$3" | while IFS= read -r _line; do
  printf '%s\n' "$_line"
  [ "$_line" != '[global]' ] || printf 'repo1-cipher-pass=%s\nrepo1-s3-key=%s\nrepo1-s3-key-secret=%s\n' "$_passphrase" "$_key" "$_secret"
done | write_atomically "$_job/pgbackrest.conf" 600
_stanza=$4
ours() { pgbackrest "--config=$_job/pgbackrest.conf" "--stanza=$_stanza" "$@"; }
# What keeps it from answering is told to whoever asks it next.
_wanted=$(ours info --output=json 2>/dev/null | sed -n 's/.*"system-id":\([0-9]*\).*/\1/p') || _wanted=
_found=$(LC_ALL=C "$6/pg_controldata" -D "$5" 2>/dev/null | sed -n 's/^Database system identifier: *//p') || _found=
if [ -n "$_wanted" ] && [ "$_wanted" != "$_found" ]; then
  rm -rf "$_job/pg"
  mkdir "$_job/pg"
  ours "--pg1-path=$_job/pg" "--db-exclude=$7" --archive-mode=off --type=none restore >&2 || fail "no cluster can be restored from the repository"
  sed "s|^pg1-path=.*|pg1-path=$_job/pg|" "$_job/pgbackrest.conf" | write_atomically "$_job/pgbackrest.conf" 600
fi
printf '%s\n' "$_job/pgbackrest.conf"
