# app_configure.sh STATE_DIR ENVIRONMENT TOKEN HOLDER COLORS_DIR COLOR ECOSYSTEM LOG_DIR BYTES
# Standard input becomes the color's env file, readable by its owner alone; ECOSYSTEM is PM2's file.
# BYTES is the size of standard input: half a file, of a connection that was cut, is not installed.
fence "$1" "$2" "$3" "$4"
mkdir -p "$5/$6/run" "$8"
# The x keeps the last newlines, which a command substitution drops. printf is the shell's own: no process list shows it.
settings=$(cat && printf x)
settings=${settings%x}
arrived=$(printf '%s' "$settings" | wc -c)
[ "$arrived" -eq "$9" ] || fail "only $arrived of $9 bytes of $6's settings arrived: its env file is left as it was"
printf '%s' "$settings" | write_atomically "$5/$6/app.env" 600
printf '%s' "$7" | write_atomically "$5/$6/ecosystem.config.js"
