# repository_look.sh CONFIG STANZA [KEPT]: what a repository of pgBackRest consists of, and whether its small files are right. `verify`
# reads none of those twice, takes no notice of one of two that is gone, and does not end on a bundle that was cut (2.45).
# Prints lines: "pair STATE PATH" for files that are kept twice (same, differ, no-first, no-second, none), "note STATE PATH" for
# what is beside WAL and sets (right, wrong), "set LABEL EXTENSION" and below it "wal START STOP" and "file {JSON} NAME" for each file that is the set's
# own, and last "list PATH JSON", all objects below a path with their sizes. Changes nothing; prints no key. With KEPT, a file, what was found is kept there, and
# told again instead of looked for.
_config=$1 _stanza=$2 _kept=${3:-}
umask 077
if [ -n "$_kept" ] && [ -f "$_kept" ]; then
  cat "$_kept"
  exit 0
fi
_dir=$(mktemp -d)
trap 'rm -rf "$_dir"' EXIT
exec 3>&1 >"$_dir/found"
get() { pgbackrest "--config=$_config" "--stanza=$_stanza" repo-get "$1" 2>/dev/null; }
list() { pgbackrest "--config=$_config" "--stanza=$_stanza" --recurse --output=json repo-ls "$1"; }
pair() {
  _first=yes _second=yes _right=/dev/null
  # Decrypted with another key, or from half a file, it begins with noise.
  { get "$1" >"$_dir/first" && head -n 1 "$_dir/first" | grep -aq '^\[backrest\]$'; } || _first=no
  { get "$1.copy" >"$_dir/second" && head -n 1 "$_dir/second" | grep -aq '^\[backrest\]$'; } || _second=no
  case $_first$_second in
  nono) echo "pair none $1" ;;
  noyes) _right=$_dir/second && echo "pair no-first $1" ;;
  yesno) _right=$_dir/first && echo "pair no-second $1" ;;
  *)
    # Damaged in its middle, it is noise in its middle: nothing tells which one.
    if cmp -s "$_dir/first" "$_dir/second"; then _right=$_dir/first && echo "pair same $1"; else echo "pair differ $1"; fi
    ;;
  esac
}
for _part in archive backup; do
  list "$_part/$_stanza" >"$_dir/$_part" || fail "$_part/$_stanza can't be listed: $(tail -n 3 "$_dir/$_part")"
done
paths() { grep -o '"[^"]*":{"type":"file"' "$_dir/$1" | sed "s|^\"|$1/$_stanza/|; s/\":{\"type\":\"file\"\$//"; }
pair "archive/$_stanza/archive.info"
pair "backup/$_stanza/backup.info"
paths archive | grep "\.\(backup\|history\)\$" | while IFS= read -r _path; do
  case $_path in *.backup) _sign='^START WAL LOCATION: ' ;; *) _sign='^[0-9][0-9]*	[0-9A-F]*/[0-9A-F]*	' ;; esac
  # The last line that the server writes, so that half of it is seen.
  case $_path in *.backup) _end='^STOP TIMELINE: ' ;; *) _end=$_sign ;; esac
  if get "$_path" >"$_dir/note" && grep -aq "$_sign" "$_dir/note" && grep -aq "$_end" "$_dir/note" &&
    ! LC_ALL=C grep -aqv '^[	 -~]*$' "$_dir/note"; then echo "note right $_path"; else echo "note wrong $_path"; fi
done
paths backup | grep "^backup/$_stanza/backup.history/.*\.gz\$" | while IFS= read -r _path; do
  if get "$_path" >"$_dir/note" && gzip -t <"$_dir/note" 2>/dev/null; then echo "note right $_path"; else echo "note wrong $_path"; fi
done
grep -o '"[0-9]\{8\}-[0-9]\{6\}F\(_[0-9]\{8\}-[0-9]\{6\}[DI]\)\{0,1\}"' "$_dir/backup" | tr -d '"' | LC_ALL=C sort -u | while IFS= read -r _label; do
  _path=backup/$_stanza/$_label
  pair "$_path/backup.manifest"
  _type=$(sed -n 's/^option-compress-type="\(.*\)"$/\1/p' "$_right")
  case $_type in zst | lz4 | gz | bz2) _extension=.$_type ;; *) _extension=- ;; esac
  echo "set $_label $_extension"
  echo "wal $(sed -n 's/^backup-archive-\(start\|stop\)="\(.*\)"$/\2/p' "$_right" | tr '\n' ' ')"
  sed -n '/^\[target:file\]$/,/^$/p' "$_right" | grep -a '={' | grep -av '"reference":' | sed 's/^\(.*\)=\({.*\)$/file \2 \1/'
done
for _part in archive backup; do printf 'list %s %s\n' "$_part/$_stanza" "$(tr -d '\n' <"$_dir/$_part")"; done
if [ -n "$_kept" ]; then
  mkdir -p "$(dirname "$_kept")"
  cp "$_dir/found" "$_kept.$$"
  mv "$_kept.$$" "$_kept"
fi
cat "$_dir/found" >&3
