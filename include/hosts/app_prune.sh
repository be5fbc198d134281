# app_prune.sh STATE_DIR ENVIRONMENT TOKEN HOLDER NODE_BIN_DIR PM2_HOME PM2_PATH RELEASES_DIR RELEASE...
# Removes old releases, which object storage still has. One that a process runs from, or would be started from, stays.
fence "$1" "$2" "$3" "$4"
PM2_HOME=$6 PATH=$5:$PATH
export PM2_HOME PATH
_node=$5/node _pm2=$7 _releases=$8
shift 8
pm2_runs "$PM2_HOME" || fail "PM2's daemon does not run here ($PM2_HOME): what is in use can't be told, nothing was removed"
_used=$("$_node" "$_pm2" -s jlist 2>/dev/null 9>&- | "$_node" -e '
  let text = ""
  process.stdin.on("data", (part) => { text += part }).on("end", () => {
    for (const p of JSON.parse(text.slice(text.indexOf("[")))) console.log(p.pm2_env.pm_cwd)
  })') || fail "PM2 does not tell what it runs, nothing was removed"
for _id in "$@"; do
  case $_id in '' | .* | */*) fail "'$_id' is no release" ;; esac
  if printf '%s\n' "$_used" | grep -qxF "$_releases/$_id"; then continue; fi
  [ -d "$_releases/$_id" ] || continue
  # Out of sight first: half a release must never look like one.
  mv "$_releases/$_id" "$_releases/.pruned-$_id"
  rm -rf "$_releases/.pruned-$_id"
  printf '%s\n' "$_id"
done
# What an earlier pruning that was killed, and installs that replaced a damaged release, have left.
find "$_releases" -maxdepth 1 \( -name '.pruned-*' -o -name '.replaced-*' \) -mmin +1440 -exec rm -rf {} +
