'use strict'

const { randomUUID } = require('node:crypto')

const { requestContext } = require('../context')

// What HAProxy's unique-id and common tracing ids look like; anything else is replaced, it goes into logs and headers.
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/

/** Says on every response who answered, and carries the request id to everything that works for the request. */
function contextMiddleware({ release, settings, drain }) {
  return (request, response, next) => {
    const given = request.get('X-Request-Id')
    const requestId = given && REQUEST_ID.test(given) ? given : randomUUID()
    response.setHeader('X-Color', settings.color)
    response.setHeader('X-Release', release.release_id)
    response.setHeader('X-Request-Id', requestId)
    if (drain.started) response.setHeader('Connection', 'close')
    requestContext.run({ requestId }, next)
  }
}

module.exports = { contextMiddleware }
