'use strict'

const { HttpError } = require('../errors')
const { isUuid } = require('../input')

const HOUSE_REFERENCE = 'C-0001'

async function listClients(pool) {
  const { rows } = await pool.query('SELECT id, reference, name FROM clients ORDER BY reference LIMIT 500')
  return rows
}

/** The client's id, given an id or a reference; 422 when there is none. */
async function clientId(connection, client = HOUSE_REFERENCE) {
  const column = isUuid(client) ? 'id' : 'reference'
  const { rows } = await connection.query(`SELECT id FROM clients WHERE ${column} = $1`, [client])
  if (rows.length === 0) throw new HttpError(422, 'unknown_client', 'clientId: no such client')
  return rows[0].id
}

module.exports = { listClients, clientId }
