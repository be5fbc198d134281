'use strict'

const { accessMiddleware } = require('./access')
const { contextMiddleware } = require('./context')

/** What every request passes through, in this order. */
function commonMiddleware(services) {
  return [contextMiddleware(services), accessMiddleware(services)]
}

module.exports = { commonMiddleware }
