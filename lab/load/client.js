'use strict'

// The sending side of the load generator. Configuration: one line of JSON on standard input. It stops when standard input says
// "stop" or ends. Standard output: one JSON object a line ({event: "ready" | "second" | "end", ...}). Every request,
// good or bad, becomes one line of the request log; lab/load/report.py has the columns.

const fs = require('node:fs')
const https = require('node:https')
const readline = require('node:readline')
const tls = require('node:tls')

const { createRandom, createRouteMix } = require('./routes.js')

const TICK_MS = 4
const LOG_FLUSH_CHARACTERS = 32768

// RFC 9110, 9.2.2: only these may be sent again without knowing whether they had an effect.
const IDEMPOTENT = new Set(['GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS'])
const CONNECTION_LOST = new Set(['ECONNRESET', 'EPIPE'])
const NOT_CONNECTED = new Set(['ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'EADDRNOTAVAIL', 'ETIMEDOUT', 'EHOSTDOWN'])
const TLS_ERROR = /^(ERR_SSL|ERR_TLS|CERT_|UNABLE_TO|DEPTH_ZERO|SELF_SIGNED|HOSTNAME_MISMATCH|INVALID_CA|EPROTO)/

const nowSeconds = () => (performance.timeOrigin + performance.now()) / 1000
const say = (event) => process.stdout.write(`${JSON.stringify(event)}\n`)

class RequestLog {
  constructor(path) {
    this.file = fs.openSync(path, 'w')
    this.text = ''
  }

  add(fields) {
    this.text += `${fields.join('\t')}\n`
    if (this.text.length > LOG_FLUSH_CHARACTERS) this.flush()
  }

  flush() {
    fs.writeSync(this.file, this.text)
    this.text = ''
  }
}

/** One load balancer and the connections to it. */
class Target {
  constructor({ name, address, port }, settings, secureContext) {
    this.name = name
    const shared = { host: address, port, servername: settings.hostname, secureContext }
    // No cached TLS session: a fresh connection is a new client's.
    this.fresh = new https.Agent({ ...shared, keepAlive: false, maxCachedSessions: 0 })
    // Each slot holds one connection open, so that all of them are used in turn and a lost one comes back. A burst opens more;
    // as browsers do, the client closes those before the server does (HAProxy after 60 s), which could meet a write on its way.
    const kept = { ...shared, keepAlive: true, maxFreeSockets: 64, maxCachedSessions: 0, timeout: settings.idle_seconds * 1000 }
    this.slots = Array.from({ length: settings.connections }, () => new https.Agent(kept))
    this.next = 0
  }

  agent(kind) {
    if (kind === 'fresh') return this.fresh
    this.next = (this.next + 1) % this.slots.length
    return this.slots[this.next]
  }

  close() {
    for (const agent of [this.fresh, ...this.slots]) agent.destroy()
  }
}

/** What became of one request that got no complete answer: the outcome's name, by where it broke. */
function outcomeOf(error, attempt) {
  if (attempt.response) return 'truncated'
  if (!attempt.sentAt && TLS_ERROR.test(error.code ?? '')) return 'tls_error'
  if (NOT_CONNECTED.has(error.code)) return 'connect_error'
  if (CONNECTION_LOST.has(error.code)) return 'reset'
  return String(error.code).startsWith('HPE_') ? 'protocol_error' : 'connect_error'
}

class Load {
  constructor(settings) {
    this.settings = settings
    this.log = new RequestLog(settings.request_log)
    // Made once: reading the CA for every connection would cost more than the handshake.
    const secureContext = tls.createSecureContext({ ca: fs.readFileSync(settings.ca_file) })
    this.targets = settings.load_balancers.map((target) => new Target(target, settings, secureContext))
    this.random = createRandom(settings.seed)
    this.nextRoute = createRouteMix(this.random, settings.write_share, settings.paths)
    this.dispatched = 0
    this.inFlight = 0
    this.totals = { requests: 0, failed: 0, retried: 0, shed: 0 }
    this.maxDelaySeconds = 0
    this.current = {}
  }

  start() {
    this.startedAt = nowSeconds()
    say({ event: 'ready', at: this.startedAt })
    for (const target of this.targets) for (let slot = 0; slot < this.settings.connections; slot++) this.dispatch(target, 'keep_alive')
    this.ticker = setInterval(() => this.tick(), TICK_MS)
    this.reporter = setInterval(() => this.report(), 1000)
  }

  tick() {
    const now = nowSeconds()
    const { rate, duration_seconds: duration, fresh_share: freshShare, max_in_flight: limit } = this.settings
    const elapsed = now - this.startedAt
    const due = Math.floor((duration ? Math.min(elapsed, duration) : elapsed) * rate)
    for (; this.dispatched < due; this.dispatched++) {
      this.maxDelaySeconds = Math.max(this.maxDelaySeconds, now - (this.startedAt + this.dispatched / rate))
      if (this.inFlight >= limit) this.totals.shed++
      else this.dispatch(this.targets[this.dispatched % this.targets.length], this.random() < freshShare ? 'fresh' : 'keep_alive')
    }
    if (duration && elapsed >= duration) this.stop()
  }

  dispatch(target, kind) {
    this.inFlight++
    const request = { target, kind, route: this.nextRoute(), startedAt: nowSeconds(), retried: 0 }
    // After what has arrived was read: timers come first when this process was kept from the processor for a while.
    const expire = () => setImmediate(() => this.timeOut(request))
    request.deadline = setTimeout(expire, this.settings.timeout_seconds * 1000)
    this.send(request, target.agent(kind))
  }

  send(request, agent) {
    const { method, path, body } = request.route
    const attempt = { sentAt: 0, response: undefined, settled: false }
    request.attempt = attempt
    const headers = { Host: this.settings.hostname, Authorization: `Bearer load-${Math.floor(this.random() * 50)}` }
    if (body) Object.assign(headers, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) })
    const sent = https.request({ agent, method, path, headers })
    attempt.abort = () => sent.destroy()
    sent.once('socket', (socket) => {
      const begin = () => {
        attempt.sentAt = nowSeconds()
        attempt.bytesBefore = socket.bytesRead
        attempt.socket = socket
      }
      // A new connection holds the request back until its handshake is done.
      if (sent.reusedSocket) begin()
      else socket.once('secureConnect', begin)
    })
    sent.on('error', (error) => this.broken(request, attempt, error, sent.reusedSocket))
    sent.once('response', (response) => {
      attempt.response = response
      response.on('error', (error) => this.broken(request, attempt, error, false))
      response.once('end', () => {
        if (response.complete) this.answered(request, attempt)
        else this.broken(request, attempt, new Error('the body ended early'), false)
      })
      response.resume()
    })
    sent.end(body)
  }

  answered(request, attempt) {
    const { statusCode } = attempt.response
    let outcome = 'ok'
    if (statusCode >= 500) outcome = 'server_error'
    else if (!request.route.expected.includes(statusCode)) outcome = 'unexpected_status'
    this.settle(request, attempt, outcome, outcome === 'ok' ? '' : `HTTP ${statusCode}`)
  }

  broken(request, attempt, error, reused) {
    if (attempt.settled) return
    // The server closed an idle connection while the request was on its way: any real client sends it again.
    const untouched = reused && !attempt.response && CONNECTION_LOST.has(error.code) && attempt.socket?.bytesRead === attempt.bytesBefore
    if (untouched && !request.retried && IDEMPOTENT.has(request.route.method)) {
      attempt.settled = true
      request.retried = 1
      this.totals.retried++
      this.send(request, request.target.fresh)
      return
    }
    this.settle(request, attempt, outcomeOf(error, attempt), `${error.code ?? ''} ${error.message}`.trim())
  }

  timeOut(request) {
    const { attempt } = request
    if (attempt.settled) return
    this.settle(request, attempt, 'timeout', `no complete answer in ${this.settings.timeout_seconds} s`)
    attempt.abort()
  }

  settle(request, attempt, outcome, error) {
    if (attempt.settled) return
    attempt.settled = true
    clearTimeout(request.deadline)
    this.inFlight--
    const finishedAt = nowSeconds()
    const { target, kind, route, startedAt, retried } = request
    const headers = attempt.response?.headers ?? {}
    const color = headers['x-color'] ?? ''
    this.count(outcome, color)
    this.log.add([
      attempt.sentAt.toFixed(6), startedAt.toFixed(6), finishedAt.toFixed(6), target.name, kind, route.method, route.name,
      attempt.response?.statusCode ?? 0, color, headers['x-release'] ?? '', outcome, retried, headers['x-request-id'] ?? '', error.replace(/\s+/g, ' '),
    ])
    if (this.stopping && this.inFlight === 0) this.end()
  }

  count(outcome, color) {
    this.totals.requests++
    if (outcome !== 'ok') this.totals.failed++
    const counts = (this.current[color] ??= { ok: 0, failed: 0 })
    counts[outcome === 'ok' ? 'ok' : 'failed']++
  }

  report() {
    say({ event: 'second', at: nowSeconds(), colors: this.current, in_flight: this.inFlight, ...this.totals })
    this.current = {}
    this.log.flush()
  }

  stop() {
    if (this.stopping) return
    this.stopping = true
    this.endedAt = nowSeconds()
    clearInterval(this.ticker)
    if (this.inFlight === 0) this.end()
  }

  end() {
    clearInterval(this.reporter)
    this.log.flush()
    const { user, system } = process.cpuUsage()
    say({
      event: 'end',
      started_at: this.startedAt,
      ended_at: this.endedAt,
      cpu_seconds: (user + system) / 1e6,
      max_dispatch_delay_seconds: this.maxDelaySeconds,
      ...this.totals,
    })
    for (const target of this.targets) target.close()
    input.close()
    process.stdin.destroy()
  }
}

let load
const input = readline.createInterface({ input: process.stdin })
input.on('line', (line) => {
  if (load) return line === 'stop' ? load.stop() : undefined
  load = new Load(JSON.parse(line))
  load.start()
})
// Whoever started this is gone.
input.on('close', () => load?.stop())
