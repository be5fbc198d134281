'use strict'

const express = require('express')

const { HttpError } = require('./errors')
const { commonMiddleware } = require('./middleware')
const { failureMiddleware } = require('./middleware/failure')
const { identityMiddleware } = require('./middleware/identity')
const { authRoutes } = require('./routes/auth')
const { clientRoutes } = require('./routes/clients')
const { dashboardRoutes } = require('./routes/dashboard')
const { invoiceRoutes } = require('./routes/invoices')
const { projectRoutes } = require('./routes/projects')
const { systemRoutes } = require('./routes/system')

/** The HTTP application of a worker. */
function createApplication(services) {
  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.set('env', services.settings.environment)
  app.use(...commonMiddleware(services))
  app.use(systemRoutes(services))
  app.use('/api/v1', identityMiddleware(services))
  app.use(authRoutes(services))
  app.use(clientRoutes(services))
  app.use(projectRoutes(services))
  app.use(invoiceRoutes(services))
  app.use(dashboardRoutes(services))
  app.use(() => {
    throw new HttpError(404, 'not_found', 'no such page')
  })
  app.use(failureMiddleware(services))
  return app
}

module.exports = { createApplication }
