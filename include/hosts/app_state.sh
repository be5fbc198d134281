# app_state.sh NODE_BIN_DIR PM2_HOME PM2_PATH RELEASES_DIR COLORS_DIR MARKER_DIR: what an application host holds and runs.
# `pm2 jlist` prints every variable of every process, secrets included: only the named fields leave this host.
_node=$1/node
printf '== processes\n'
if pm2_runs "$2"; then
  PM2_HOME=$2 "$_node" "$3" -s jlist 2>/dev/null | "$_node" -e '
    let text = ""
    process.stdin.on("data", (part) => { text += part }).on("end", () => {
      const list = JSON.parse(text.slice(text.indexOf("[")))
      console.log(JSON.stringify(list.map((p) => ({
        name: p.name, pid: p.pid, status: p.pm2_env.status, restarts: p.pm2_env.restart_time,
        cwd: p.pm2_env.pm_cwd, uptime_since_ms: p.pm2_env.pm_uptime, user: p.pm2_env.username,
      }))))
    })'
else
  echo '!no-daemon'
fi
printf '== releases\n'
mkdir -p "$4" 2>/dev/null || :
# The newest first; a release's name has no spaces.
for _dir in $(ls -1dt "$4"/*/ 2>/dev/null); do
  [ -f "$_dir/release.json" ] && basename "$_dir"
done
printf '== disk\n'
df -Pk "$4" | awk 'NR == 2 {print $4}'
printf '== marker\n'
cat "$6/current-color" 2>/dev/null || echo '!missing'
printf '\n== last_good\n'
cat "$6/last-good-release" 2>/dev/null || echo '!missing'
printf '\n== good\n'
cat "$6/good-releases" 2>/dev/null || echo '!missing'
