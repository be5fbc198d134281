'use strict'

const { Pool } = require('pg')

// Kept open however quiet it is: if all were opened in the moment that traffic is switched here, some could take longer than
// the connect timeout.
const WARM_CONNECTIONS = 5

/** The pool of this worker process. DB_POOL_SIZE counts per worker: multiply by workers, hosts and running colors. */
function createPool(settings, logger, name) {
  const pool = new Pool({
    connectionString: settings.database.url,
    max: settings.database.poolSize,
    min: Math.min(WARM_CONNECTIONS, settings.database.poolSize),
    idleTimeoutMillis: settings.database.idleTimeoutMs,
    connectionTimeoutMillis: settings.database.connectTimeoutMs,
    statement_timeout: settings.database.queryTimeoutMs,
    query_timeout: settings.database.queryTimeoutMs + 1000,
    application_name: name,
    keepAlive: true,
  })
  // Without a listener a connection that breaks while idle would end the process.
  pool.on('error', (error) => logger.warn('idle database connection lost', { error: error.message }))
  return pool
}

/** Opens the connections that the pool keeps. Without a database there are none yet, and the health check says why. */
async function warmPool(pool) {
  const opened = await Promise.allSettled(Array.from({ length: pool.options.min }, () => pool.connect()))
  for (const { value: client } of opened) client?.release()
}

/** A pool of one connection beside the big one: a busy application still answers its health check. */
function createHealthPool(settings, logger, name) {
  const pool = new Pool({
    connectionString: settings.database.url,
    max: 1,
    idleTimeoutMillis: settings.database.idleTimeoutMs,
    connectionTimeoutMillis: 1000,
    statement_timeout: 1000,
    query_timeout: 1000,
    application_name: `${name}-health`,
  })
  pool.on('error', (error) => logger.warn('health connection lost', { error: error.message }))
  return pool
}

/** Runs work(client) in one transaction: everything is kept, or nothing. */
async function inTransaction(pool, work) {
  const client = await pool.connect()
  let failure
  try {
    await client.query('BEGIN')
    const result = await work(client)
    await client.query('COMMIT')
    return result
  } catch (error) {
    failure = error
    await client.query('ROLLBACK').catch(() => undefined)
    throw error
  } finally {
    client.release(failure)
  }
}

module.exports = { createPool, createHealthPool, inTransaction, warmPool }
