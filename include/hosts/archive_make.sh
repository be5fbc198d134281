# archive_make.sh MODE ROOT WORK_DIR RUN MINIMUM_FREE_BYTES RECIPIENT EXCLUDED_NAMES EXCLUDED_PATHS PATH...
# MODE "list" prints what is there now; "make" makes an encrypted archive of it as well, in WORK_DIR/RUN.
# PATH is below ROOT: "+etc/nginx" with what is in it, "=var/log" the directory alone; * and ? are patterns, as in both
# lists of what is left out (separated by spaces). RECIPIENT is age's public key. Prints sections of base64: names may hold anything.
set -f
umask 077
_mode=$1 _root=$2 _work=$3 _job=$3/$4 _minimum_bytes=$5 _recipient=$6 _names=$7 _excluded=$8
shift 8
LC_ALL=C
export LC_ALL
# Only the last directory is root's alone: what lies beside it has other users.
(umask 022 && mkdir -p "$_work")
chmod 700 "$_work"
# Two at once would share the disk and the truth; a former attempt that still works is ended by its own time limit.
exec 8>>"$_work/lock"
flock -w 5 8 || { echo "an archive is made or unpacked on this host right now" >&2; exit 75; }
cd "$_root"
# What runs before this one have left: none of them works, this one has the lock.
find "$_work" -mindepth 1 -maxdepth 1 -type d ! -path "$_work/aside" ! -path "$_job" -mmin +1440 -exec rm -rf {} + 2>/dev/null || :
mkdir -p "$_job"
# The stamp of app_install.sh says that a release is whole, with its modules: a restored one is not.
_out="( -name .artifact-sha256"
for _name in $_names; do _out="$_out -o -name $_name"; done
for _path in $_excluded; do _out="$_out -o -path $_path"; done
_out="$_out )"

# parents PATH: the directories above it, as they are part of what a restore must make.
parents() {
  _above=$1
  while :; do
    case $_above in */*) _above=${_above%/*} ;; *) return ;; esac
    printf '%s\0' "$_above"
  done
}

# collect PATH...: what belongs into the archive, each name followed by NUL. What is declared and missing goes to a file.
collect() {
  for _given in "$@"; do
    _pattern=${_given#?}
    set +f
    _ifs=$IFS IFS=''
    # shellcheck disable=SC2086
    set -- $_pattern
    IFS=$_ifs
    set -f
    for _path in "$@"; do
      if [ ! -e "$_path" ] && [ ! -L "$_path" ]; then
        printf '%s\n' "$_pattern" >>"$_job/missing"
        continue
      fi
      parents "$_path"
      case $_given in
        =*) printf '%s\0' "$_path" ;;
        # Sockets, pipes and devices are made by what uses them.
        # shellcheck disable=SC2086
        *) find "$_path" $_out -prune -o \( -type f -o -type d -o -type l \) -print0 ;;
      esac
    done
  done
}

: >"$_job/missing"
collect "$@" >"$_job/collected"
sort -zu "$_job/collected" >"$_job/list"
[ "$_mode" = list ] || [ -s "$_job/list" ] || fail "nothing of what is declared is on this host: $(tr '\n' ' ' <"$_job/missing")"
xargs -0 -r sh -c 'exec find "$@" -maxdepth 0 -printf "%y\t%m\t%U\t%G\t%u\t%g\t%s\0%l\0%p\0"' sh <"$_job/list" >"$_job/attributes"
xargs -0 -r sh -c 'exec find "$@" -maxdepth 0 -type f -print0' sh <"$_job/list" >"$_job/files"
xargs -0 -r sha256sum -z <"$_job/files" >"$_job/hashes" || fail "a file could not be read, or is gone since it was listed"
if [ "$_mode" = make ]; then
  command -v age >/dev/null || fail "age is not installed here: apt-get install age"
  command -v zstd >/dev/null || fail "zstd is not installed here: apt-get install zstd"
  rm -f "$_job/archive" "$_job/broken"
  _bytes=$(xargs -0 -r stat -c %s <"$_job/files" | awk '{sum += $1} END {printf "%.0f", sum + 0}')
  _free_kib=$(df -Pk "$_job" | awk 'NR == 2 {print $4}')
  _need_kib=$(((_bytes + _minimum_bytes) / 1024 + 1024))
  [ "$_free_kib" -ge "$_need_kib" ] || fail "disk full: $_free_kib KiB free in $_work, $_need_kib KiB needed; nothing was made"
  # The same tree gives the same bytes: names in order, no access times, no process id in a header. Exit status 1 is a file
  # that changed while it was read; the comparison after names it.
  {
    tar --create --file=- --no-recursion --null --files-from="$_job/list" --format=posix --hard-dereference \
      --pax-option='delete=atime,delete=ctime,exthdr.name=%d/PaxHeaders/%f' || [ $? -eq 1 ] || echo tar >>"$_job/broken"
  } | { zstd -q -3 -T1 || echo zstd >>"$_job/broken"; } | { age -r "$_recipient" -o "$_job/archive" || echo age >>"$_job/broken"; }
  [ ! -s "$_job/broken" ] || fail "the archive could not be made: $(tr '\n' ' ' <"$_job/broken")failed"
  sync "$_job/archive"
  printf '== archive\n%s %s\n' "$(stat -c %s "$_job/archive")" "$(sha256sum "$_job/archive" | cut -d' ' -f1)"
fi
printf '== attributes\n'
base64 -w 0 "$_job/attributes"
printf '\n== hashes\n'
base64 -w 0 "$_job/hashes"
printf '\n== missing\n'
cat "$_job/missing"
printf '== stamps\n'
# Which artifact each release came from, so that what is left out can be fetched by its SHA-256.
tr '\0' '\n' <"$_job/files" | sed -n 's|/release\.json$||p' | while IFS= read -r _release; do
  [ -f "$_release/.artifact-sha256" ] || continue
  printf '%s %s\n' "$(cut -c1-64 "$_release/.artifact-sha256")" "$(basename "$_release")"
done
[ "$_mode" = make ] || rm -rf "$_job"
