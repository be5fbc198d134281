# app_start.sh STATE_DIR ENVIRONMENT TOKEN HOLDER COLORS_DIR COLOR NODE_BIN_DIR PM2_HOME PM2_PATH APP_NAME
# Starts the color anew from its ecosystem file. PM2 keeps an old working directory on `reload` and
# `startOrReload`, so a color that takes no traffic is deleted and started. Exit 0 says nothing about health.
fence "$1" "$2" "$3" "$4"
_ecosystem=$5/$6/ecosystem.config.js
_node=$7/node
PM2_HOME=$8 PATH=$7:$PATH
export PM2_HOME PATH
_pm2=$9
shift 9
pm2_runs "$PM2_HOME" || fail "PM2's daemon does not run here ($PM2_HOME): start its service"
"$_node" "$_pm2" -s delete "$1" >/dev/null 2>&1 9>&- || :
"$_node" "$_pm2" -s start "$_ecosystem" 9>&-
"$_node" "$_pm2" -s save --force >/dev/null 9>&-
