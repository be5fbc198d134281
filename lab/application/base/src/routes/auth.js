'use strict'

const { Router } = require('express')

const { userById } = require('../queries/users')

function authRoutes({ pool, cache }) {
  const router = Router()
  router.get('/api/v1/auth/me', async (request, response) => {
    response.json(await cache.getOrLoad(`users:${request.userId}`, 300, () => userById(pool, request.userId)))
  })
  return router
}

module.exports = { authRoutes }
