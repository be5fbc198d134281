# repository_open.sh WORK_DIR JOB CONFIG: makes a copy of CONFIG, pgBackRest's on this host, that opens the repository with other
# keys: the job's file pgbackrest.conf, for its owner alone. Standard input, three lines: the passphrase, the key id, its secret.
# Prints the file's path. repository_close.sh removes it. Run as the owner of the cluster.
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
printf '%s\n' "$_job/pgbackrest.conf"
