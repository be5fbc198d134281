'use strict'

const { Router } = require('express')

const { listClients } = require('../queries/clients')

function clientRoutes({ pool, cache }) {
  const router = Router()
  router.get('/api/v1/clients', async (request, response) => {
    response.json({ clients: await cache.getOrLoad('clients:all', 300, () => listClients(pool)) })
  })
  return router
}

module.exports = { clientRoutes }
