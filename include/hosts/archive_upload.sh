# archive_upload.sh WORK_DIR RUN SHA256: sends the archive that archive_make.sh has made, and removes it from here.
# Standard input: the signed URL to write to, then certificates to trust, if any.
umask 077
_job=$1/$2 _expected=$3
exec 8>>"$1/lock"
flock -w 5 8 || { echo "an archive is made or unpacked on this host right now" >&2; exit 75; }
[ -f "$_job/archive" ] || fail "the archive is gone from $_job: make it again"
[ "$(sha256sum "$_job/archive" | cut -d' ' -f1)" = "$_expected" ] || fail "the archive is not the one that was made"
IFS= read -r _url
cat >"$_job/ca.pem"
if [ -s "$_job/ca.pem" ]; then set -- --cacert "$_job/ca.pem"; else set --; fi
printf 'url = "%s"\n' "$_url" |
  curl -sS --fail --retry 2 --connect-timeout 5 -m 800 "$@" -T "$_job/archive" -o /dev/null -K - || fail "the upload failed"
rm -rf "$_job"
