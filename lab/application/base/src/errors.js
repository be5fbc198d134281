'use strict'

/** An error that a client may see: status and code go into the JSON answer. */
class HttpError extends Error {
  constructor(status, code, message) {
    super(message)
    this.name = 'HttpError'
    this.status = status
    this.code = code
  }
}

// Network errors of a server that is away, and the PostgreSQL classes 08 (connection), 53 (resources), 57P (shutdown),
// 25006 (read only: a demoted primary). https://www.postgresql.org/docs/15/errcodes-appendix.html
const UNAVAILABLE = /^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|08|53|57P|57014|25006|28|3D)/
const UNAVAILABLE_TEXT =
  /timeout exceeded when trying to connect|Connection terminated|Query read timeout|Client has encountered a connection error/

/** True when the database is away, too busy or read only, as opposed to a mistake in our statement. */
function isDatabaseUnavailable(error) {
  return (
    error?.syscall === 'connect' || UNAVAILABLE.test(error?.code ?? '') || UNAVAILABLE_TEXT.test(error?.message ?? '')
  )
}

module.exports = { HttpError, isDatabaseUnavailable }
