'use strict'

const { Client } = require('pg')

const { HalfAppliedError, LockConflictError, MigrationError, readMigrations } = require('./files')
const { knownRelations, locksOf, watchingLocks } = require('./locks')
const { cleanUp, describeRemains, isResumable, runStatements } = require('./stepwise')

const LOCK_KEY = 7361000001
const LOCK_TIMEOUT_MS = 5000
const STATEMENT_TIMEOUT_MS = 60000

const CREATE_TABLE = `CREATE TABLE IF NOT EXISTS schema_migrations (
  number integer PRIMARY KEY, name text NOT NULL, phase text NOT NULL, checksum text NOT NULL,
  started_at timestamptz NOT NULL, finished_at timestamptz)`

async function connect(settings, { lockTimeoutMs = LOCK_TIMEOUT_MS, statementTimeoutMs = STATEMENT_TIMEOUT_MS } = {}) {
  const client = new Client({
    connectionString: settings.database.url,
    connectionTimeoutMillis: settings.database.connectTimeoutMs,
    application_name: 'sebenza-migrate',
    statement_timeout: statementTimeoutMs,
    lock_timeout: lockTimeoutMs,
    // A statement whose client was killed ends at once; else an index would go on being built with nobody to finish it.
    options: '-c client_min_messages=warning -c client_connection_check_interval=1000',
  })
  client.on('error', () => undefined)
  await client.connect()
  return client
}

async function appliedMigrations(client) {
  const { rows: present } = await client.query("SELECT to_regclass('schema_migrations') IS NOT NULL AS present")
  if (!present[0].present) return new Map()
  const { rows } = await client.query(
    'SELECT number, name, phase, checksum, started_at, finished_at FROM schema_migrations ORDER BY number',
  )
  return new Map(rows.map((row) => [row.number, row]))
}

function stateOf(migration, row) {
  if (!row) return 'pending'
  if (!row.finished_at) return 'half-applied'
  return row.checksum === migration.checksum ? 'applied' : 'changed'
}

function describe(migrations, applied) {
  const known = new Set(migrations.map((migration) => migration.number))
  const own = migrations.map((migration) => ({
    number: migration.number,
    name: migration.name,
    phase: migration.phase,
    state: stateOf(migration, applied.get(migration.number)),
  }))
  const foreign = [...applied.values()]
    .filter((row) => !known.has(row.number))
    .map((row) => ({
      number: row.number,
      name: row.name,
      phase: row.phase,
      state: row.finished_at ? 'foreign' : 'half-applied',
    }))
  return [...own, ...foreign].sort((a, b) => a.number - b.number)
}

/** Every migration of this release and of the database with its state: applied, pending, half-applied, changed or foreign. */
async function migrationStatus(settings) {
  const client = await connect(settings)
  try {
    return describe(readMigrations(), await appliedMigrations(client))
  } finally {
    await client.end()
  }
}

async function refuseUnsound(client, status, migrations, applied) {
  for (const entry of status.filter((found) => found.state === 'half-applied')) {
    const own = migrations.find((migration) => migration.number === entry.number)
    const same = own && own.checksum === applied.get(entry.number).checksum
    if (same && !own.transactional && isResumable(own)) continue
    const remains = same
      ? await describeRemains(client, own)
      : 'this release does not have it as it was started; look at it in the release that started it'
    throw new HalfAppliedError(
      `migration ${entry.number} (${entry.name}) was started and never finished, and can't be gone on with by itself. ${remains}. Bring the schema to one side, then: migrate.js resolve ${entry.number} applied|pending`,
    )
  }
  const changed = status.find((entry) => entry.state === 'changed')
  if (changed)
    throw new MigrationError(
      `migration ${changed.number} (${changed.name}) differs from the one that was applied; give the new one a new number`,
    )
}

const isLockTimeout = (error) => error.code === '55P03'

function blockedBy(seen) {
  return seen.blocking?.length > 0
    ? `it waited for ${seen.blocking.join(', ')}`
    : 'the session that it waited for has gone meanwhile'
}

async function applyInTransaction(client, migration, context) {
  const title = `migration ${migration.number} (${migration.name})`
  const seen = {}
  const known = context.withLocks ? await knownRelations(client) : []
  try {
    return await watchingLocks(client, context.connectObserver, seen, async () => {
      await client.query('BEGIN')
      await client.query(migration.sql)
      const locks = context.withLocks ? await locksOf(client, client.processID, known) : undefined
      await client.query(
        'INSERT INTO schema_migrations (number, name, phase, checksum, started_at, finished_at) VALUES ($1, $2, $3, $4, now(), clock_timestamp())',
        [migration.number, migration.name, migration.phase, migration.checksum],
      )
      await client.query('COMMIT')
      return { state: 'applied', locks }
    })
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    if (isLockTimeout(error))
      throw new LockConflictError(
        `${title} could not get a lock (${error.message}): ${blockedBy(seen)}. It was rolled back, nothing of it remains`,
      )
    throw new MigrationError(`${title} failed and was rolled back, nothing of it remains: ${error.message}`)
  }
}

/** For statements that refuse a transaction (CREATE INDEX CONCURRENTLY): the row without an end marks an interrupted one. */
async function applyStepwise(client, migration, context) {
  const title = `migration ${migration.number} (${migration.name})`
  const seen = context.withLocks ? { sampled: new Set(), known: await knownRelations(client) } : {}
  const row = [migration.number, migration.name, migration.phase, migration.checksum]
  if (!context.resuming)
    await client.query(
      'INSERT INTO schema_migrations (number, name, phase, checksum, started_at) VALUES ($1, $2, $3, $4, now())',
      row,
    )
  try {
    await watchingLocks(client, context.connectObserver, seen, () => runStatements(client, migration, context))
  } catch (error) {
    const isGone = await cleanUp(client, migration).catch(() => false)
    if (isGone) await client.query('DELETE FROM schema_migrations WHERE number = $1', [migration.number])
    const left = isGone ? 'nothing of it remains' : 'it is marked as half-applied'
    if (isLockTimeout(error))
      throw new LockConflictError(
        `${title} could not get a lock (${error.message}): ${blockedBy(seen)}. After that ${left}${isGone ? '' : '; the next attempt goes on with it'}`,
      )
    throw new MigrationError(`${title} failed half way, ${left}: ${error.message}`)
  }
  await client.query('UPDATE schema_migrations SET finished_at = clock_timestamp() WHERE number = $1', [
    migration.number,
  ])
  return { state: context.resuming ? 'resumed' : 'applied', locks: seen.sampled && [...seen.sampled].sort() }
}

const LOCK_HOLDER = `SELECT a.pid, a.application_name, a.client_addr::text AS address FROM pg_locks l
  JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted
  AND ((l.classid::bigint << 32) | l.objid::bigint) = $1`

async function lock(client) {
  try {
    await client.query('SELECT pg_advisory_lock($1)', [LOCK_KEY])
  } catch (error) {
    if (!isLockTimeout(error)) throw error
    const { rows } = await client.query(LOCK_HOLDER, [LOCK_KEY])
    const holders = rows.map((row) => `pid ${row.pid}${row.address ? ` from ${row.address}` : ''}`)
    throw new LockConflictError(
      `another migration is running (advisory lock held by ${holders.join(', ') || 'a session that has gone meanwhile'}); try again when it has ended`,
    )
  }
}

const isDue = (entry) => ['pending', 'half-applied'].includes(entry.state)

/** What `up` would do for a phase, without doing it. */
async function migrationPlan(settings, phase) {
  const migrations = readMigrations()
  const client = await connect(settings)
  try {
    const applied = await appliedMigrations(client)
    const status = describe(migrations, applied)
    await refuseUnsound(client, status, migrations, applied)
    return status.filter((entry) => isDue(entry) && entry.phase === phase)
  } finally {
    await client.end()
  }
}

/**
 * Applies the pending migrations of one phase in order, and goes on with an interrupted one. Each is kept whole or not at
 * all, except those outside a transaction. Yields each as it is done: number, name, phase, state, seconds, locks.
 */
async function migrateUp(settings, phase, { report, done, withLocks = false, ...timeouts } = {}) {
  const migrations = readMigrations()
  const client = await connect(settings, timeouts)
  try {
    await lock(client)
    await client.query(CREATE_TABLE)
    const applied = await appliedMigrations(client)
    const status = describe(migrations, applied)
    await refuseUnsound(client, status, migrations, applied)
    const states = new Map(
      status.filter((entry) => isDue(entry) && entry.phase === phase).map((entry) => [entry.number, entry.state]),
    )
    const due = migrations.filter((migration) => states.has(migration.number))
    const missingExpand = status.find((entry) => isDue(entry) && entry.phase === 'expand')
    if (phase === 'contract' && missingExpand)
      throw new MigrationError(`expand migration ${missingExpand.number} is not applied yet; run up first`)
    for (const migration of due) {
      report?.(migration)
      const began = process.hrtime.bigint()
      const result = await (migration.transactional ? applyInTransaction : applyStepwise)(client, migration, {
        connectObserver: () => connect(settings),
        resuming: states.get(migration.number) === 'half-applied',
        withLocks,
      })
      done?.(migration, { ...result, seconds: Number(process.hrtime.bigint() - began) / 1e9 })
    }
    return due
  } finally {
    await client.end()
  }
}

/** An operator's verdict on a half-applied migration, after a look at the schema. */
async function resolveMigration(settings, number, verdict) {
  const client = await connect(settings)
  try {
    await lock(client)
    const statement =
      verdict === 'applied'
        ? 'UPDATE schema_migrations SET finished_at = now() WHERE number = $1 AND finished_at IS NULL'
        : 'DELETE FROM schema_migrations WHERE number = $1 AND finished_at IS NULL'
    const { rowCount } = await client.query(statement, [number])
    if (rowCount === 0) throw new MigrationError(`migration ${number} is not half-applied`)
  } finally {
    await client.end()
  }
}

module.exports = { migrateUp, migrationPlan, migrationStatus, resolveMigration }
