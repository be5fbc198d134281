# check_application.sh NODE_BIN_DIR PM2_HOME PM2_PATH RELEASES_DIR COLORS_DIR MARKER_DIR ADDRESS DATABASE CACHE PORT...
# What an application host runs, who owns it, and what it reaches. Changes nothing, starts no PM2 daemon.
# Of PM2's lists, which hold every variable of every process, only the named fields leave this host.
_node=$1/node _home=$2 _pm2=$3 _releases=$4 _colors=$5 _markers=$6
shift 6
printf '== node\n'
"$_node" --version 2>&1 || :
printf '== pm2\n'
"$_node" -e '
  const fs = require("fs"), path = require("path")
  let dir = path.dirname(fs.realpathSync(process.argv[1]))
  for (; dir !== "/"; dir = path.dirname(dir)) {
    const file = path.join(dir, "package.json")
    if (fs.existsSync(file)) { const p = JSON.parse(fs.readFileSync(file)); if (p.name === "pm2") { console.log(p.version); break } }
  }' "$_pm2" 2>/dev/null || :
printf '== daemon\n'
_pid=$(cat "$_home/pm2.pid" 2>/dev/null || echo 0)
if [ "$_pid" -gt 0 ] 2>/dev/null && [ -d "/proc/$_pid" ]; then
  printf '%s %s %s\n' "$_pid" "$(stat -c %U "/proc/$_pid")" "$(if [ -S "$_home/rpc.sock" ] && [ -w "$_home/rpc.sock" ]; then echo yes; else echo no; fi)"
else
  echo '!none'
fi
printf '== daemons\n'
ps -eo pid=,user:32=,args= | awk '/PM2 v[0-9.]+: God Daemon/ && !/awk/ {print}'
printf '== processes\n'
if [ "$_pid" -gt 0 ] 2>/dev/null && [ -S "$_home/rpc.sock" ] && kill -0 "$_pid" 2>/dev/null; then
  PM2_HOME=$_home "$_node" "$_pm2" -s jlist 2>/dev/null | "$_node" -e '
    let text = ""
    process.stdin.on("data", (part) => { text += part }).on("end", () => {
      const list = JSON.parse(text.slice(text.indexOf("[")))
      console.log(JSON.stringify(list.map((p) => ({
        name: p.name, pid: p.pid, status: p.pm2_env.status, restarts: p.pm2_env.restart_time,
        cwd: p.pm2_env.pm_cwd, user: p.pm2_env.username,
      }))))
    })' || :
else
  echo '!no-daemon'
fi
printf '== saved\n'
"$_node" -e '
  const fs = require("fs")
  if (!fs.existsSync(process.argv[1])) console.log("!none")
  else console.log(JSON.stringify(JSON.parse(fs.readFileSync(process.argv[1])).map((p) => ({ name: p.name, cwd: p.pm_cwd }))))
' "$_home/dump.pm2" 2>/dev/null || echo '!unreadable'
printf '== releases\n'
for _dir in "$_releases"/*/; do
  if [ -f "$_dir/release.json" ]; then du -sk "$_dir"; fi
done
printf '== env_files\n'
for _color in blue green; do
  if [ -e "$_colors/$_color/app.env" ]; then printf '%s %s\n' "$_color" "$(stat -c '%U %a' "$_colors/$_color/app.env")"; fi
done
printf '== marker\n'
cat "$_markers/current-color" 2>/dev/null || echo '!missing'
printf '\n== last_good\n'
cat "$_markers/last-good-release" 2>/dev/null || echo '!missing'
# A port is open, refused or silent; a database and a cache must also speak their protocol. No login is tried.
printf '\n== reach\n'
"$_node" -e '
  const net = require("net")
  const [address, database, cache, ...ports] = process.argv.slice(1)
  const hello = { database: Buffer.from([0, 0, 0, 8, 4, 210, 22, 47]), cache: Buffer.from("PING\r\n") }
  const ask = (name, host, port, send) => new Promise((resolve) => {
    const socket = net.connect({ host, port })
    const end = (word) => { socket.destroy(); resolve(`${name} ${word}`) }
    socket.setTimeout(3000, () => end(send ? "silent" : "timeout"))
    socket.on("error", (error) => end(error.code === "ECONNREFUSED" ? "refused" : error.code || "error"))
    socket.on("connect", () => { if (send) socket.write(send); else end("open") })
    socket.on("data", (data) => end("answered " + data.subarray(0, 40).toString("latin1").split("\r")[0]))
    socket.on("end", () => end("closed"))
  })
  const at = (text) => [text.slice(0, text.lastIndexOf(":")), Number(text.slice(text.lastIndexOf(":") + 1))]
  Promise.all([
    ask("database", ...at(database), hello.database), ask("cache", ...at(cache), hello.cache),
    ...ports.map((port) => ask(`port ${port}`, address, Number(port))),
  ]).then((lines) => console.log(lines.join("\n")))
' "$@" 2>&1 || :
