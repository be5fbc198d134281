'use strict'

// The pattern of the route, never the path: paths have ids, and each would be a new series. Routes name their full path, since
// Express forgets where a router was mounted once a handler has thrown.
const routeOf = (request) => request.route?.path ?? 'unmatched'

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

/** Counts and times each request and writes one access line. */
function accessMiddleware({ metrics, logger }) {
  return (request, response, next) => {
    const started = process.hrtime.bigint()
    metrics.requestsInFlight.inc()
    response.once('close', () => {
      metrics.requestsInFlight.dec()
      const seconds = Number(process.hrtime.bigint() - started) / 1e9
      const method = METHODS.has(request.method) ? request.method : 'other'
      const route = routeOf(request)
      // 499 as in Nginx: the client went away before the answer.
      const status = response.writableFinished ? String(response.statusCode) : '499'
      metrics.httpRequestDuration.observe({ method, route, status_code: status }, seconds)
      metrics.httpRequests.inc({ method, route, status })
      const write = route === '/health' || route.endsWith('metrics') ? 'debug' : 'access'
      logger[write](`${request.method} ${route} ${status}`, {
        method,
        route,
        status: Number(status),
        duration_ms: Math.round(seconds * 1000),
      })
    })
    next()
  }
}

module.exports = { accessMiddleware }
