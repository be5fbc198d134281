# archive_stage.sh STATE_DIR ENVIRONMENT TOKEN HOLDER USER WORK_DIR RUN NEEDED_BYTES
# Standard input (a tar of zstd, decrypted on its way) is unpacked beside, in WORK_DIR/RUN/tree; nothing of the host changes.
# A host that was replaced has no place for its fence yet: it is made for USER, who moves it from then on.
umask 022
[ -d "$1" ] || install -d -o "$5" -g "$(id -gn "$5")" -m 755 "$1"
fence "$1" "$2" "$3" "$4"
chown "$5:" "$1/fence-$2" "$1/fence-$2.lock"
mkdir -p "$6"
umask 077
chmod 700 "$6"
_work=$6 _job=$6/$7
exec 8>>"$_work/lock"
flock -w 5 8 || { echo "an archive is made or unpacked on this host right now" >&2; exit 75; }
command -v zstd >/dev/null || fail "zstd is not installed here: apt-get install zstd"
rm -rf "$_job/tree"
mkdir -p "$_job/tree"
_free_kib=$(df -Pk "$_job" | awk 'NR == 2 {print $4}')
_need_kib=$(($8 / 1024 + 10240))
[ "$_free_kib" -ge "$_need_kib" ] || fail "disk full: $_free_kib KiB free in $_work, $_need_kib KiB needed; nothing was unpacked"
cat >"$_job/tree.tar.zst"
zstd -q -d -f "$_job/tree.tar.zst" -o "$_job/tree.tar" || fail "the archive did not arrive whole"
tar --extract --file="$_job/tree.tar" --directory="$_job/tree" --preserve-permissions --same-owner
rm -f "$_job/tree.tar.zst" "$_job/tree.tar"
