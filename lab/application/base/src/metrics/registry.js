'use strict'

const prometheus = require('prom-client')

// The manual's buckets; 10 added so that a p95 over 5 s can be told from one at 5 s.
const DURATION_BUCKETS_SECONDS = [0.1, 0.5, 1, 2, 5, 10]
const AMOUNT_BUCKETS = [100, 1000, 10000, 100000]

/** The metrics of this worker. Every series says worker, color and release, so no sum over workers is ever stored. */
function createMetrics({ worker, color, release }) {
  const registry = new prometheus.Registry()
  registry.setDefaultLabels({ worker, color, release })
  // The default samples the event loop a hundred times a second, in every worker, also while nothing is asked of it.
  prometheus.collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 100 })
  const registers = [registry]
  return {
    registry,
    httpRequestDuration: new prometheus.Histogram({
      name: 'http_request_duration_seconds',
      help: 'Duration of HTTP requests in seconds',
      labelNames: ['method', 'route', 'status_code'],
      buckets: DURATION_BUCKETS_SECONDS,
      registers,
    }),
    httpRequests: new prometheus.Counter({
      name: 'http_requests_total',
      help: 'HTTP requests answered',
      labelNames: ['method', 'route', 'status'],
      registers,
    }),
    requestsInFlight: new prometheus.Gauge({
      name: 'http_requests_in_flight',
      help: 'HTTP requests being worked on',
      registers,
    }),
    transactionAmount: new prometheus.Histogram({
      name: 'transaction_amount',
      help: 'Amounts of transactions in units of their currency',
      labelNames: ['type'],
      buckets: AMOUNT_BUCKETS,
      registers,
    }),
    cacheRequests: new prometheus.Counter({
      name: 'cache_requests_total',
      help: 'Cache look-ups by level and result',
      labelNames: ['level', 'result'],
      registers,
    }),
  }
}

/** Gauges that are read when they are scraped. */
function observeState(metrics, { pool, logger, activeUsers }) {
  const registers = [metrics.registry]
  const gauge = (name, help, read) =>
    new prometheus.Gauge({
      name,
      help,
      registers,
      async collect() {
        const value = await read()
        // An unknown value is left out: a zero would look like good news.
        if (value === undefined) this.remove()
        else this.set(value)
      },
    })
  gauge(
    'database_connections_active',
    'Database connections of this worker that are in use',
    () => pool.totalCount - pool.idleCount,
  )
  gauge('database_connections_open', 'Database connections of this worker, in use or idle', () => pool.totalCount)
  gauge(
    'database_connections_waiting',
    'Requests of this worker that wait for a database connection',
    () => pool.waitingCount,
  )
  gauge(
    'active_users_total',
    'Users seen within the session timeout, in the whole environment: use max(), not sum()',
    () => activeUsers.count(),
  )
  new prometheus.Counter({
    name: 'log_write_errors_total',
    help: 'Log lines that could not be written',
    registers,
    collect() {
      this.reset()
      this.inc(logger.failedWrites)
    },
  })
}

module.exports = { createMetrics, observeState }
