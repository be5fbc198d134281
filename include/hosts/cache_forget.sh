# cache_forget.sh STATE_DIR ENVIRONMENT TOKEN HOLDER NODE_BIN_DIR PATTERN: removes the keys of a Redis that match a glob pattern.
# Standard input: its URL. SCAN and UNLINK in batches: KEYS would block it. Prints how many were removed.
fence "$1" "$2" "$3" "$4"
"$5/node" -e '
  const url = new URL(require("fs").readFileSync(0, "utf8").trim())
  const pattern = process.argv[1]
  const fail = (text) => { console.error(text); process.exit(1) }
  const where = { host: url.hostname, port: Number(url.port || 6379), rejectUnauthorized: true }
  const socket = url.protocol === "rediss:" ? require("tls").connect({ ...where, servername: url.hostname }) : require("net").connect(where)
  socket.setTimeout(10000, () => fail(`the cache ${where.host}:${where.port} did not answer within 10 s`))
  socket.on("error", (error) => fail(`the cache ${where.host}:${where.port}: ${error.message}`))
  socket.on("close", () => fail(`the cache ${where.host}:${where.port} closed the connection`))
  let buffer = Buffer.alloc(0)
  let waiting
  // RESP2: what is still incomplete is undefined. https://redis.io/docs/latest/develop/reference/protocol-spec/
  function read(at) {
    const end = buffer.indexOf("\r\n", at)
    if (end < 0) return undefined
    const [kind, text, next] = [String.fromCharCode(buffer[at]), buffer.toString("utf8", at + 1, end), end + 2]
    if (kind === "$") {
      const length = Number(text)
      if (length < 0) return [null, next]
      return buffer.length < next + length + 2 ? undefined : [buffer.subarray(next, next + length), next + length + 2]
    }
    if (kind !== "*") return [kind === "-" ? new Error(text) : text, next]
    const items = []
    let place = next
    for (let n = 0; n < Number(text); n++) {
      const item = read(place)
      if (item === undefined) return undefined
      items.push(item[0])
      place = item[1]
    }
    return [items, place]
  }
  socket.on("data", (part) => {
    buffer = Buffer.concat([buffer, part])
    const answer = waiting && read(0)
    if (!answer) return
    buffer = buffer.subarray(answer[1])
    const resolve = waiting
    waiting = undefined
    resolve(answer[0])
  })
  async function ask(...words) {
    const parts = words.map((word) => (Buffer.isBuffer(word) ? word : Buffer.from(String(word))))
    const sent = parts.map((part) => Buffer.concat([Buffer.from(`$${part.length}\r\n`), part, Buffer.from("\r\n")]))
    const answer = await new Promise((resolve) => {
      waiting = resolve
      socket.write(Buffer.concat([Buffer.from(`*${parts.length}\r\n`), ...sent]))
    })
    if (answer instanceof Error) fail(`the cache refused ${words[0]}: ${answer.message}`)
    return answer
  }
  async function main() {
    const [user, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)]
    if (password) await ask("AUTH", ...(user ? [user] : []), password)
    await ask("SELECT", url.pathname.slice(1) || "0")
    let [cursor, removed] = ["0", 0]
    do {
      const [next, keys] = await ask("SCAN", cursor, "MATCH", pattern, "COUNT", "500")
      if (keys.length > 0) removed += Number(await ask("UNLINK", ...keys))
      cursor = next.toString()
    } while (cursor !== "0")
    process.stdout.write(`${removed}\n`, () => process.exit(0))
  }
  main()
' "$6"
