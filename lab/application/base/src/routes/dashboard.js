'use strict'

const { Router } = require('express')

const { dashboardMetrics, recentActivity } = require('../queries/dashboard')

const DASHBOARD_TTL_SECONDS = 10

function dashboardRoutes({ pool, cache, activeUsers }) {
  const router = Router()

  router.get('/api/v1/dashboard/metrics', async (request, response) => {
    const numbers = await cache.getOrLoad('dashboard:metrics', DASHBOARD_TTL_SECONDS, () => dashboardMetrics(pool))
    response.json({ ...numbers, activeUsers: (await activeUsers.count()) ?? null })
  })

  router.get('/api/v1/dashboard/recent-activity', async (request, response) => {
    response.json({
      activity: await cache.getOrLoad('dashboard:activity', DASHBOARD_TTL_SECONDS, () => recentActivity(pool)),
    })
  })

  return router
}

module.exports = { dashboardRoutes }
