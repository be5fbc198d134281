'use strict'

const { AsyncLocalStorage } = require('node:async_hooks')

/** The request that the running code works for: {requestId, userId}. */
const requestContext = new AsyncLocalStorage()

module.exports = { requestContext }
