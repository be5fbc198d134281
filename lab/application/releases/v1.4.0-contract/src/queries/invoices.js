'use strict'

const { inTransaction } = require('../database')
const { recordActivity } = require('./activity')
const { clientId } = require('./clients')

async function listInvoices(pool) {
  const { rows } = await pool.query(
    `SELECT i.id, (i.amount_cents / 100.0)::numeric(14, 2) AS amount, i.amount_cents, i.currency, i.status, i.created_at, c.name AS client_name
     FROM invoices i JOIN clients c ON i.client_id = c.id ORDER BY i.created_at DESC LIMIT 50`,
  )
  return rows
}

async function insertInvoice(connection, invoice, userId) {
  const { rows } = await connection.query(
    `INSERT INTO invoices (client_id, amount_cents, currency, created_by) VALUES ($1, $2, $3, $4)
     RETURNING id, (amount_cents / 100.0)::numeric(14, 2) AS amount, amount_cents, currency, status, created_at`,
    [await clientId(connection, invoice.client), invoice.amountCents, invoice.currency, userId],
  )
  return rows[0]
}

/** All invoices in one transaction: one that is refused leaves none behind. */
async function createInvoices(pool, invoices, userId) {
  return inTransaction(pool, async (connection) => {
    const created = []
    // One after the other: a connection works on one statement at a time, whatever Promise.all would suggest.
    for (const invoice of invoices) created.push(await insertInvoice(connection, invoice, userId))
    await recordActivity(
      connection,
      userId,
      'create',
      created.length === 1 ? `invoice ${created[0].id}` : `${created.length} invoices`,
    )
    return created
  })
}

module.exports = { listInvoices, createInvoices }
