'use strict'

const { accessMiddleware } = require('./access')
const { contextMiddleware } = require('./context')
const { discountMiddleware } = require('./discounts')

/** What every request passes through, in this order. */
function commonMiddleware(services) {
  return [contextMiddleware(services), accessMiddleware(services), discountMiddleware(services)]
}

module.exports = { commonMiddleware }
