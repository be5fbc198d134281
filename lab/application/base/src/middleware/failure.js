'use strict'

const { HttpError, isDatabaseUnavailable } = require('../errors')

function describe(error) {
  if (error instanceof HttpError) return error
  // Errors of the body parser carry a 4xx status of their own.
  if (error.status >= 400 && error.status < 500) return new HttpError(error.status, 'bad_request', error.message)
  if (isDatabaseUnavailable(error))
    return new HttpError(503, 'database_unavailable', 'the database is not available, try again')
  return new HttpError(500, 'internal_error', 'an unexpected error; the log has it under this request id')
}

/** Turns every error into a JSON answer; what the client may not see goes to the log. */
function failureMiddleware({ logger }) {
  return (error, request, response, next) => {
    const shown = describe(error)
    if (shown.status >= 500)
      logger.error(error.message, { code: error.code, stack: shown.status === 500 ? error.stack : undefined })
    if (response.headersSent) {
      next(error)
      return
    }
    if (shown.status === 503) response.setHeader('Retry-After', '1')
    response.status(shown.status).json({
      error: { code: shown.code, message: shown.message, request_id: response.getHeader('X-Request-Id') },
    })
  }
}

module.exports = { failureMiddleware }
