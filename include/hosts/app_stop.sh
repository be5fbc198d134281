# app_stop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER NODE_BIN_DIR PM2_HOME PM2_PATH APP_NAME: stops a color and forgets it.
fence "$1" "$2" "$3" "$4"
PM2_HOME=$6 PATH=$5:$PATH
export PM2_HOME PATH
pm2_runs "$6" || fail "PM2's daemon does not run here ($6): start its service"
"$5/node" "$7" -s delete "$8" >/dev/null 2>&1 9>&- || :
"$5/node" "$7" -s save --force >/dev/null 9>&-
