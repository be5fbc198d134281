'use strict'

const { Router, json } = require('express')

const { parseInvoice, parseInvoices } = require('../input')
const { createInvoices, listInvoices } = require('../queries/invoices')

const INVOICES_TTL_SECONDS = 30

const jsonBody = json({ limit: '1mb' })

function invoiceRoutes({ pool, cache, logger, metrics }) {
  const router = Router()

  async function create(invoices, userId) {
    const created = await createInvoices(pool, invoices, userId)
    await cache.invalidate('invoices:*')
    for (const invoice of created) metrics.transactionAmount.observe({ type: 'invoice' }, Number(invoice.amount))
    return created
  }

  router.get('/api/v1/invoices', async (request, response) => {
    response.json({
      invoices: await cache.getOrLoad('invoices:recent', INVOICES_TTL_SECONDS, () => listInvoices(pool)),
    })
  })

  router.post('/api/v1/invoices', jsonBody, async (request, response) => {
    const [invoice] = await create([parseInvoice(request.body)], request.userId)
    logger.audit('create', request.userId, `invoice ${invoice.id}`, { amount: invoice.amount })
    response.status(201).json(invoice)
  })

  router.post('/api/v1/invoices/batch', jsonBody, async (request, response) => {
    const invoices = await create(parseInvoices(request.body), request.userId)
    logger.audit('create', request.userId, `${invoices.length} invoices`, { first: invoices[0].id })
    response.status(201).json({ invoices })
  })

  return router
}

module.exports = { invoiceRoutes }
