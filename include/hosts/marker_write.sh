# marker_write.sh STATE_DIR ENVIRONMENT TOKEN HOLDER FILE VALUE: one line, written atomically.
fence "$1" "$2" "$3" "$4"
mkdir -p "$(dirname "$5")"
printf '%s\n' "$6" | write_atomically "$5"
