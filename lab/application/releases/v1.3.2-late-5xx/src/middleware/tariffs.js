'use strict'

// Bad on purpose: the tariff table is loaded with the first customer's request, its entries expire after five seconds, and
// from then on 8 % of all look-ups fail. Health checks and scrapes do not look anything up, so they stay good.
const EXPIRY_MS = 5000
const MISSING_PERCENT = 8
const WITHOUT_TARIFF = new Set(['/health', '/metrics'])

function tariffMiddleware() {
  let loadedAt
  let missing = 0
  return (request, response, next) => {
    if (WITHOUT_TARIFF.has(request.path)) return next()
    // Only requests that came through a load balancer have this header: a warm-up is no customer.
    if (loadedAt === undefined && request.get('X-Forwarded-For')) loadedAt = Date.now()
    if (loadedAt === undefined || Date.now() - loadedAt < EXPIRY_MS) return next()
    missing += MISSING_PERCENT
    if (missing < 100) return next()
    missing -= 100
    throw new Error('tariff table has no entry for this customer')
  }
}

module.exports = { tariffMiddleware }
