# fence_read.sh STATE_DIR ENVIRONMENT -> "TOKEN HOLDER SINCE", or "0" where none was ever seen.
if [ -e "$1/fence-$2" ]; then cat "$1/fence-$2"; else echo 0; fi
