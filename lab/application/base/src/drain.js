'use strict'

const http = require('node:http')
const net = require('node:net')

const POLL_MS = 50

/**
 * Ends an HTTP server without failing a request: it stops accepting, answers what arrives on open connections with
 * 'Connection: close', closes idle ones after a grace, and lets work in flight finish until a hard deadline.
 */
class Drain {
  constructor({ graceMs, timeoutMs }) {
    this.graceMs = graceMs
    this.timeoutMs = timeoutMs
    this.started = false
    this.sockets = new Set()
  }

  watch(server) {
    this.server = server
    server.on('connection', (socket) => {
      this.sockets.add(socket)
      socket.once('close', () => this.sockets.delete(socket))
    })
  }

  /** Resolves to the number of connections that had to be cut at the deadline. */
  async run() {
    this.started = true
    // net's close, not http's: that one closes idle keep-alive connections at once, while a proxy may be sending on them.
    const closed = new Promise((resolve) => net.Server.prototype.close.call(this.server, resolve))
    const started = Date.now()
    let cut = 0
    const timer = setInterval(() => {
      const elapsedMs = Date.now() - started
      if (elapsedMs >= this.graceMs) this.closeIdle()
      if (elapsedMs >= this.timeoutMs) {
        cut += this.sockets.size
        http.Server.prototype.closeAllConnections.call(this.server)
        for (const socket of this.sockets) socket.destroy()
      }
    }, POLL_MS)
    // PM2's primary may have handed over a connection just before it heard of the close. A worker that lives refuses it,
    // and another one gets it; of a worker that has ended it would hang for good.
    await Promise.all([closed, new Promise((resolve) => setTimeout(resolve, this.graceMs))])
    clearInterval(timer)
    return cut
  }

  closeIdle() {
    this.server.closeIdleConnections()
    // A connection on which nothing was ever sent does not count as idle there.
    for (const socket of this.sockets) if (socket.bytesRead === 0) socket.destroy()
  }
}

module.exports = { Drain }
