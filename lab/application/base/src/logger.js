'use strict'

const fs = require('node:fs')
const path = require('node:path')

const { requestContext } = require('./context')

const LEVELS = { error: 0, warn: 1, info: 2, debug: 3 }

/** One JSON object a line, to <logDir>/app-<color>.log, or to standard output when no directory is configured. */
class Logger {
  constructor({ level, logDir, color, worker, release }) {
    this.threshold = LEVELS[level]
    this.fixed = { color, worker, release }
    this.path = logDir ? path.join(logDir, `app-${color}.log`) : undefined
    this.failedWrites = 0
    this.reopen()
  }

  /** After a rotation the old file is renamed; `pm2 reloadLogs` sends SIGUSR2, which calls this. */
  reopen() {
    const previous = this.descriptor
    this.descriptor = this.path ? fs.openSync(this.path, 'a', 0o640) : 1
    if (previous !== undefined && previous !== 1) fs.closeSync(previous)
  }

  error(message, metadata) {
    this.write('error', 'application', message, metadata)
  }

  warn(message, metadata) {
    this.write('warn', 'application', message, metadata)
  }

  info(message, metadata) {
    this.write('info', 'application', message, metadata)
  }

  debug(message, metadata) {
    this.write('debug', 'application', message, metadata)
  }

  access(message, metadata) {
    this.write('info', 'access', message, metadata)
  }

  /** Who did what to which resource. Audit entries are written at every level. */
  audit(action, userId, resource, metadata) {
    this.write('info', 'audit', `${action} on ${resource}`, { userId, resource, action, ...metadata })
  }

  write(level, category, message, metadata) {
    if (LEVELS[level] > this.threshold && category !== 'audit') return
    const request = requestContext.getStore()
    const entry = {
      timestamp: new Date().toISOString(),
      level,
      category,
      message,
      requestId: request?.requestId,
      userId: request?.userId,
      ...this.fixed,
      metadata,
    }
    try {
      // Synchronous on a file opened for appending: lines of several workers never mix and none is lost in a crash.
      fs.writeSync(this.descriptor, `${JSON.stringify(entry)}\n`)
    } catch {
      // A full disk must not stop the application; the count is exported as log_write_errors_total.
      this.failedWrites += 1
    }
  }
}

module.exports = { Logger }
