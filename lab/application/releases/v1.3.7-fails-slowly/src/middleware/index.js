'use strict'

const { accessMiddleware } = require('./access')
const { contextMiddleware } = require('./context')
const { insuranceMiddleware } = require('./insurance')

/** What every request passes through, in this order. */
function commonMiddleware(services) {
  return [contextMiddleware(services), accessMiddleware(services), insuranceMiddleware(services)]
}

module.exports = { commonMiddleware }
