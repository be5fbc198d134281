# app_configure.sh STATE_DIR ENVIRONMENT TOKEN HOLDER COLORS_DIR COLOR ECOSYSTEM LOG_DIR
# Standard input becomes the color's env file, readable by its owner alone; ECOSYSTEM is PM2's file.
fence "$1" "$2" "$3" "$4"
mkdir -p "$5/$6/run" "$8"
write_atomically "$5/$6/app.env" 600
printf '%s' "$7" | write_atomically "$5/$6/ecosystem.config.js"
