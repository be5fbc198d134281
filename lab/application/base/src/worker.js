'use strict'

const http = require('node:http')

const { ActiveUsers } = require('./active-users')
const { createApplication } = require('./application')
const { Cache, createRedis } = require('./cache')
const { createHealthPool, createPool, warmPool } = require('./database')
const { Drain } = require('./drain')
const { Health } = require('./health')
const { Logger } = require('./logger')
const { MetricsGatherer } = require('./metrics/gather')
const { createMetrics, observeState } = require('./metrics/registry')
const { requiredMigrations } = require('./migrations/files')

const FIRST_HEALTH_POLL_MS = 250
const CLOSE_TIMEOUT_MS = 1000
// Longer than the keep-alive of the proxy in front (Nginx: 60 s), so that it is never this side that closes first.
const KEEP_ALIVE_MS = 75000

/** The instance under PM2 and the pid: a restarted worker, or two during a reload, are different series. */
function workerName() {
  return `${process.env.NODE_APP_INSTANCE ?? '0'}-${process.pid}`
}

function createServices(settings, release) {
  const worker = workerName()
  const startedAt = new Date()
  const logger = new Logger({
    level: settings.app.logLevel,
    logDir: settings.app.logDir,
    color: settings.color,
    worker,
    release: release.release_id,
  })
  const name = `sebenza-${settings.color}-${worker}`
  const pool = createPool(settings, logger, name)
  const healthPool = createHealthPool(settings, logger, name)
  const redis = createRedis(settings, logger)
  const metrics = createMetrics({ worker, color: settings.color, release: release.release_id })
  const cache = new Cache(redis, {
    ttlSeconds: settings.cache.ttlSeconds,
    logger,
    count: (level, result) => metrics.cacheRequests.inc({ level, result }),
  })
  const activeUsers = new ActiveUsers(redis, settings.app.sessionTimeoutSeconds)
  observeState(metrics, { pool, logger, activeUsers })
  const health = new Health({
    healthPool,
    redis,
    release,
    color: settings.color,
    requiredMigrations: requiredMigrations(),
  })
  const gatherer = new MetricsGatherer({ registry: metrics.registry, runDir: settings.app.runDir, logger })
  const drain = new Drain({ graceMs: settings.app.drainGraceMs, timeoutMs: settings.app.drainTimeoutSeconds * 1000 })
  return {
    settings,
    release,
    startedAt,
    logger,
    pool,
    healthPool,
    redis,
    metrics,
    cache,
    activeUsers,
    health,
    gatherer,
    drain,
  }
}

async function listen(server, { port, host }) {
  await new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen({ port, host }, resolve)
  })
}

async function firstHealthy({ health, logger, drain }) {
  let reported
  while (!drain.started) {
    const { httpStatus, body } = await health.check()
    if (httpStatus === 200) return true
    const problem = JSON.stringify(body.checks)
    if (problem !== reported) logger.warn('not ready yet', body.checks)
    reported = problem
    await new Promise((resolve) => setTimeout(resolve, FIRST_HEALTH_POLL_MS))
  }
  return false
}

async function shutDown(services, signal) {
  const { logger, drain, pool, healthPool, redis, gatherer, activeUsers } = services
  if (drain.started) return
  logger.info('draining', { signal })
  const cut = await drain.run()
  await activeUsers.flush()
  activeUsers.stop()
  gatherer.stop()
  const ended = Promise.allSettled([pool.end(), healthPool.end()])
  // Queries of connections that were cut may run on; nobody waits for their result.
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, CLOSE_TIMEOUT_MS))])
  redis.disconnect()
  logger[cut > 0 ? 'warn' : 'info']('stopped', { signal, connections_cut: cut })
  process.exit(0)
}

async function reportCrash({ logger, settings, release }, error) {
  logger.error('uncaught error, the worker ends', { error: error.message, stack: error.stack })
  if (settings.monitoring.alertsWebhook) {
    const body = JSON.stringify({ text: `Sebenza ${release.release_id} on ${settings.color}: ${error.message}` })
    const headers = { 'Content-Type': 'application/json' }
    await fetch(settings.monitoring.alertsWebhook, {
      method: 'POST',
      headers,
      body,
      signal: AbortSignal.timeout(1000),
    }).catch(() => undefined)
  }
  process.exit(1)
}

/** Starts a worker: it listens, and reports ready to PM2 once it is healthy. */
async function startWorker(settings, release) {
  const services = createServices(settings, release)
  const { logger, drain, gatherer } = services
  const server = http.createServer(createApplication(services))
  server.keepAliveTimeout = KEEP_ALIVE_MS
  server.headersTimeout = KEEP_ALIVE_MS + 5000
  drain.watch(server)
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => shutDown(services, signal))
  process.on('message', (message) => message === 'shutdown' && shutDown(services, 'shutdown message'))
  process.on('SIGUSR2', () => logger.reopen())
  process.on('uncaughtException', (error) => reportCrash(services, error))
  process.on('unhandledRejection', (error) =>
    reportCrash(services, error instanceof Error ? error : new Error(String(error))),
  )

  if (settings.monitoring.enabled) await gatherer.start()
  await warmPool(services.pool)
  await listen(server, settings.app)
  logger.info('listening', { host: settings.app.host, port: settings.app.port, version: release.version })
  if (await firstHealthy(services)) {
    logger.info('ready')
    process.send?.('ready')
  }
}

module.exports = { startWorker }
