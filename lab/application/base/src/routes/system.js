'use strict'

const { Router } = require('express')

const { HttpError } = require('../errors')

/** What load balancers, deployments and monitoring ask. */
function systemRoutes({ settings, release, health, gatherer, startedAt }) {
  const router = Router()

  router.get('/', (request, response) => {
    response.type('html').send(
      `<!doctype html><title>Sebenza Logistics Suite</title><body style="font-family:sans-serif">
<h1 style="color:${settings.color}">Sebenza Logistics Suite</h1><p>${release.version} (${release.release_id}), ${settings.environment}</p>`,
    )
  })

  router.get('/health', async (request, response) => {
    const { httpStatus, body } = await health.check()
    response.status(httpStatus).set('Cache-Control', 'no-store').json(body)
  })

  router.get('/version', (request, response) => {
    response.set('Cache-Control', 'no-store').json({
      version: release.version,
      sha: release.sha,
      release_id: release.release_id,
      color: settings.color,
      schema_revision: release.schema_revision,
      pid: process.pid,
      started_at: startedAt.toISOString(),
    })
  })

  router.get(settings.monitoring.metricsPath, async (request, response) => {
    if (!settings.monitoring.enabled) throw new HttpError(404, 'metrics_disabled', 'METRICS_ENABLED is not true')
    response.set('Content-Type', 'text/plain; version=0.0.4; charset=utf-8').send(await gatherer.gather())
  })

  return router
}

module.exports = { systemRoutes }
