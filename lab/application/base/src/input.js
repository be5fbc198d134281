'use strict'

const { HttpError } = require('./errors')

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i
const MAXIMUM_BATCH = 500
const MAXIMUM_CENTS = 1e11

const isUuid = (value) => typeof value === 'string' && UUID.test(value)

function refuse(field, expected) {
  throw new HttpError(400, 'invalid_input', `${field}: expected ${expected}`)
}

function object(body) {
  if (body === null || typeof body !== 'object' || Array.isArray(body)) refuse('body', 'a JSON object')
  return body
}

function text(value, field, maximum) {
  if (typeof value !== 'string' || value.trim() === '' || value.length > maximum)
    refuse(field, `a text of 1 to ${maximum} characters`)
  return value.trim()
}

/** {name, client} of a new project; client is an id or a reference, undefined for the house's own. */
function parseProject(body) {
  const { name, clientId } = object(body)
  return { name: text(name, 'name', 200), client: clientId === undefined ? undefined : text(clientId, 'clientId', 100) }
}

/** {client, amountCents, currency} of a new invoice. */
function parseInvoice(body, prefix = '') {
  const { clientId, amountCents = 0, currency = 'ZAR' } = object(body)
  if (!Number.isInteger(amountCents) || amountCents < 0 || amountCents > MAXIMUM_CENTS) {
    refuse(`${prefix}amountCents`, `a whole number from 0 to ${MAXIMUM_CENTS}`)
  }
  if (typeof currency !== 'string' || !/^[A-Z]{3}$/.test(currency)) refuse(`${prefix}currency`, 'three capital letters')
  return { client: text(clientId, `${prefix}clientId`, 100), amountCents, currency }
}

function parseInvoices(body) {
  const { invoices } = object(body)
  if (!Array.isArray(invoices) || invoices.length === 0 || invoices.length > MAXIMUM_BATCH) {
    refuse('invoices', `a list of 1 to ${MAXIMUM_BATCH} invoices`)
  }
  return invoices.map((invoice, index) => parseInvoice(invoice, `invoices[${index}].`))
}

module.exports = { isUuid, parseProject, parseInvoice, parseInvoices }
