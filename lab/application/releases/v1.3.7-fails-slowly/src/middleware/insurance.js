'use strict'

// Bad on purpose, five seconds after the first customer's request: the insurer does not answer any more, and after eight
// seconds we give up with an error. Requests have begun long before their failures are counted.
const SILENT_AFTER_MS = 5000
const UNINSURED_PERCENT = 12
const GIVE_UP_MS = 8000
const WITHOUT_INSURANCE = new Set(['/health', '/metrics', '/version'])

function insuranceMiddleware() {
  let firstAt
  let uninsured = 0
  return (request, response, next) => {
    if (WITHOUT_INSURANCE.has(request.path)) return next()
    // Only requests that came through a load balancer have this header: a warm-up is no customer.
    if (firstAt === undefined && request.get('X-Forwarded-For')) firstAt = Date.now()
    if (firstAt === undefined || Date.now() - firstAt < SILENT_AFTER_MS) return next()
    uninsured += UNINSURED_PERCENT
    if (uninsured < 100) return next()
    uninsured -= 100
    setTimeout(() => next(new Error('the insurer does not answer')), GIVE_UP_MS)
  }
}

module.exports = { insuranceMiddleware }
