'use strict'

const { accessMiddleware } = require('./access')
const { contextMiddleware } = require('./context')
const { customsMiddleware } = require('./customs')

/** What every request passes through, in this order. */
function commonMiddleware(services) {
  return [contextMiddleware(services), accessMiddleware(services), customsMiddleware(services)]
}

module.exports = { commonMiddleware }
