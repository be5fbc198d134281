'use strict'

const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')

const SOCKET_NAME = /^worker-(\d+)\.sock$/
const PEER_TIMEOUT_MS = 500

function processExists(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code !== 'ESRCH'
  }
}

function fetchFrom(socketPath) {
  return new Promise((resolve, reject) => {
    const request = http.get({ socketPath, path: '/', timeout: PEER_TIMEOUT_MS, agent: false }, (response) => {
      const chunks = []
      response.on('data', (chunk) => chunks.push(chunk))
      response.on('end', () => resolve(Buffer.concat(chunks).toString('utf8')))
      response.on('error', reject)
    })
    request.on('timeout', () => request.destroy(new Error(`no answer within ${PEER_TIMEOUT_MS} ms`)))
    request.on('error', reject)
  })
}

/** Joins expositions family by family; the worker label keeps every series apart, so nothing is added up. */
function mergeExpositions(texts) {
  const families = new Map()
  for (const text of texts) {
    let family
    for (const line of text.split('\n')) {
      const header = /^# (HELP|TYPE) (\S+)/.exec(line)
      if (header) {
        family = families.get(header[2]) ?? { headers: new Map(), samples: [] }
        families.set(header[2], family)
        if (!family.headers.has(header[1])) family.headers.set(header[1], line)
      } else if (line !== '') {
        family.samples.push(line)
      }
    }
  }
  const lines = []
  for (const family of families.values()) lines.push(...family.headers.values(), ...family.samples)
  return `${lines.join('\n')}\n`
}

/**
 * PM2's cluster mode hands a scrape to any one worker. So each worker offers its own registry on a socket beside those of the
 * others, and whichever is scraped asks them all.
 */
class MetricsGatherer {
  constructor({ registry, runDir, logger }) {
    this.registry = registry
    this.runDir = runDir
    this.logger = logger
    this.socketName = `worker-${process.pid}.sock`
  }

  async start() {
    fs.mkdirSync(this.runDir, { recursive: true, mode: 0o750 })
    const socketPath = path.join(this.runDir, this.socketName)
    fs.rmSync(socketPath, { force: true })
    this.server = http.createServer((request, response) => {
      this.registry.metrics().then(
        (text) => response.end(text),
        (error) => response.writeHead(500).end(error.message),
      )
    })
    await new Promise((resolve, reject) => {
      this.server.once('error', reject)
      // exclusive: under PM2 the cluster module would share the listening socket between the workers.
      this.server.listen({ path: socketPath, exclusive: true }, resolve)
    })
    this.server.unref()
  }

  stop() {
    this.server?.close()
    fs.rmSync(path.join(this.runDir, this.socketName), { force: true })
  }

  async gather() {
    const names = fs.readdirSync(this.runDir).filter((name) => SOCKET_NAME.test(name) && name !== this.socketName)
    const peers = await Promise.all(names.map((name) => this.askPeer(name)))
    const known = peers.filter((peer) => peer !== undefined)
    const answers = known.filter((peer) => peer.text !== undefined).map((peer) => peer.text)
    const text = mergeExpositions([await this.registry.metrics(), ...answers])
    return `${text}${this.describeGathering(answers.length + 1, known.length - answers.length)}`
  }

  describeGathering(gathered, silent) {
    const { color, release } = this.registry._defaultLabels
    const labels = `worker="all",color="${color}",release="${release}"`
    return [
      '# HELP metrics_workers Workers of this host and color by whether they answered this scrape',
      '# TYPE metrics_workers gauge',
      `metrics_workers{state="gathered",${labels}} ${gathered}`,
      `metrics_workers{state="silent",${labels}} ${silent}`,
      '',
    ].join('\n')
  }

  /** {text} of a worker that answers, {} of one that lives but is silent, undefined of one that is gone. */
  async askPeer(name) {
    const socketPath = path.join(this.runDir, name)
    try {
      return { text: await fetchFrom(socketPath) }
    } catch (error) {
      if (error.code === 'ENOENT') return undefined
      if (!processExists(Number(SOCKET_NAME.exec(name)[1])) || error.code === 'ECONNREFUSED') {
        // A killed worker leaves its socket behind; a freed pid may by now belong to somebody else.
        this.logger.info('removing the metrics socket of a dead worker', { socket: name })
        fs.rmSync(socketPath, { force: true })
        return undefined
      }
      this.logger.warn('a worker did not give its metrics', { socket: name, error: error.message })
      return {}
    }
  }
}

module.exports = { MetricsGatherer, mergeExpositions }
