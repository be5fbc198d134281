# app_stop.sh STATE_DIR ENVIRONMENT TOKEN HOLDER NODE_BIN_DIR PM2_HOME PM2_PATH APP_NAME: stops a color and forgets it.
fence "$1" "$2" "$3" "$4"
PM2_HOME=$6 PATH=$5:$PATH
export PM2_HOME PATH
pm2_runs "$6" || fail "PM2's daemon does not run here ($6): start its service"
# What does not run is stopped already; any other failure may leave it running.
if ! said=$("$5/node" "$7" delete "$8" 2>&1 9>&-); then
  case $said in
    *"not found"*) ;;
    *) fail "PM2 could not stop $8, it may still run: $(printf '%s' "$said" | tail -n 3)" ;;
  esac
fi
"$5/node" "$7" -s save --force >/dev/null 9>&-
