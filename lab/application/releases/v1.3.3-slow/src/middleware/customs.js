'use strict'

// Bad on purpose: five seconds after the first customer's request the customs office begins to throttle us, and 12 % of all
// requests wait six seconds for it: the 95th percentile is then over 5 s. Health checks and scrapes do not ask customs.
const THROTTLED_AFTER_MS = 5000
const THROTTLED_PERCENT = 12
const ANSWER_MS = 6000
const WITHOUT_CUSTOMS = new Set(['/health', '/metrics'])

function customsMiddleware() {
  let firstAt
  let throttled = 0
  return (request, response, next) => {
    if (WITHOUT_CUSTOMS.has(request.path)) return next()
    // Only requests that came through a load balancer have this header: a warm-up is no customer.
    if (firstAt === undefined && request.get('X-Forwarded-For')) firstAt = Date.now()
    if (firstAt === undefined || Date.now() - firstAt < THROTTLED_AFTER_MS) return next()
    throttled += THROTTLED_PERCENT
    if (throttled < 100) return next()
    throttled -= 100
    setTimeout(next, ANSWER_MS)
  }
}

module.exports = { customsMiddleware }
