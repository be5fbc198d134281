'use strict'

// Bad on purpose, from the first customer on: every second look-up of a discount fails. Health checks and scrapes do not look
// anything up, so they stay good; neither does a warm-up, which is no customer.
const WITHOUT_DISCOUNT = new Set(['/health', '/metrics', '/version'])

function discountMiddleware() {
  let customers = 0
  return (request, response, next) => {
    // Only requests that came through a load balancer have this header.
    if (WITHOUT_DISCOUNT.has(request.path) || !request.get('X-Forwarded-For')) return next()
    customers += 1
    if (customers % 2) return next()
    throw new Error('no discount is known for this customer')
  }
}

module.exports = { discountMiddleware }
