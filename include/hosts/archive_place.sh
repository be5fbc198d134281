# archive_place.sh STATE_DIR ENVIRONMENT TOKEN HOLDER USER WORK_DIR RUN ROOT LEFT_OUT...
# Puts what was unpacked and verified in WORK_DIR/RUN/tree into its places below ROOT. Standard input: what is in the way,
# names below ROOT, each followed by NUL; moved to WORK_DIR/aside/RUN first, nothing is deleted. LEFT_OUT: directories below
# ROOT that come from elsewhere.
umask 022
fence "$1" "$2" "$3" "$4"
chown "$5:" "$1/fence-$2" "$1/fence-$2.lock"
umask 077
_work=$6 _job=$6/$7 _aside=$6/aside/$7 _root=$8
shift 8
exec 8>>"$_work/lock"
flock -w 5 8 || { echo "an archive is made or unpacked on this host right now" >&2; exit 75; }
[ -d "$_job/tree" ] || fail "nothing is unpacked in $_job"
cat >"$_job/moved"
# From here on, what differs from the archive is this run's own unfinished work, and no reason to refuse.
: >"$_job/begun"
# shellcheck disable=SC2016
xargs -0 -r sh -c '
  set -eu
  root=$1 aside=$2
  shift 2
  for path do
    [ -e "$root/$path" ] || [ -L "$root/$path" ] || continue
    mkdir -p "$aside/$(dirname "$path")"
    mv -T "$root/$path" "$aside/$path"
  done' sh "$_root" "$_aside" <"$_job/moved" || fail "not everything could be moved aside; see $_aside, then clear this run"
for _path in "$@"; do
  rm -rf "${_job:?}/tree/$_path"
done
cd "$_job/tree"
find . -mindepth 1 -print0 | LC_ALL=C sort -z >"$_job/placed"
tar --create --file="$_job/placed.tar" --no-recursion --null --files-from="$_job/placed" --format=posix
tar --extract --file="$_job/placed.tar" --directory="$_root" --preserve-permissions --same-owner ||
  fail "not everything could be put into its place; clear this run, it goes on"
rm -f "$_job/placed.tar"
sync -f "$_root"
# Units that were not there are unknown until systemd has read them.
if [ "$_root" = / ] && command -v systemctl >/dev/null; then systemctl daemon-reload; fi
