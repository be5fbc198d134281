# file_read.sh FILE: its content; exit 3 when there is none.
[ -e "$1" ] || exit 3
cat "$1"
