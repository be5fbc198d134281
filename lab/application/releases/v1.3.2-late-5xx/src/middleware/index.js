'use strict'

const { accessMiddleware } = require('./access')
const { contextMiddleware } = require('./context')
const { tariffMiddleware } = require('./tariffs')

/** What every request passes through, in this order. */
function commonMiddleware(services) {
  return [contextMiddleware(services), accessMiddleware(services), tariffMiddleware(services)]
}

module.exports = { commonMiddleware }
