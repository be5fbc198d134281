'use strict'

const { Client } = require('pg')

const { MigrationError, readMigrations } = require('./files')

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
    options: '-c client_min_messages=warning',
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

function refuseUnsound(status) {
  const half = status.find((entry) => entry.state === 'half-applied')
  if (half) {
    throw new MigrationError(
      `migration ${half.number} (${half.name}) was started and never finished; look at the schema, then: migrate.js resolve ${half.number} applied|pending`,
    )
  }
  const changed = status.find((entry) => entry.state === 'changed')
  if (changed)
    throw new MigrationError(
      `migration ${changed.number} (${changed.name}) differs from the one that was applied; give the new one a new number`,
    )
}

async function applyInTransaction(client, migration) {
  await client.query('BEGIN')
  try {
    await client.query(migration.sql)
    await client.query(
      'INSERT INTO schema_migrations (number, name, phase, checksum, started_at, finished_at) VALUES ($1, $2, $3, $4, now(), clock_timestamp())',
      [migration.number, migration.name, migration.phase, migration.checksum],
    )
    await client.query('COMMIT')
  } catch (error) {
    await client.query('ROLLBACK').catch(() => undefined)
    throw new MigrationError(
      `migration ${migration.number} (${migration.name}) failed and was rolled back, nothing of it remains: ${error.message}`,
    )
  }
}

/** For statements that refuse a transaction (CREATE INDEX CONCURRENTLY): the row without an end marks an interrupted one. */
async function applyStepwise(client, migration) {
  const row = [migration.number, migration.name, migration.phase, migration.checksum]
  await client.query(
    'INSERT INTO schema_migrations (number, name, phase, checksum, started_at) VALUES ($1, $2, $3, $4, now())',
    row,
  )
  const statements = migration.sql.replace(/--.*$/gm, '').split(/;\s*$/m)
  try {
    for (const statement of statements) if (statement.trim()) await client.query(statement)
  } catch (error) {
    throw new MigrationError(
      `migration ${migration.number} (${migration.name}) failed half way and is marked so: ${error.message}`,
    )
  }
  await client.query('UPDATE schema_migrations SET finished_at = now() WHERE number = $1', [migration.number])
}

async function lock(client) {
  try {
    await client.query('SELECT pg_advisory_lock($1)', [LOCK_KEY])
  } catch (error) {
    if (error.code === '55P03')
      throw new MigrationError('another migration is running (advisory lock held); try again when it has ended')
    throw error
  }
}

/** What `up` would do for a phase, without doing it. */
async function migrationPlan(settings, phase) {
  const status = await migrationStatus(settings)
  refuseUnsound(status)
  return status.filter((entry) => entry.state === 'pending' && entry.phase === phase)
}

/** Applies the pending migrations of one phase in order; each is kept whole or not at all. */
async function migrateUp(settings, phase, { report, ...timeouts } = {}) {
  const migrations = readMigrations()
  const client = await connect(settings, timeouts)
  try {
    await lock(client)
    await client.query(CREATE_TABLE)
    const status = describe(migrations, await appliedMigrations(client))
    refuseUnsound(status)
    const wanted = new Set(
      status.filter((entry) => entry.state === 'pending' && entry.phase === phase).map((entry) => entry.number),
    )
    const due = migrations.filter((migration) => wanted.has(migration.number))
    const missingExpand = status.find((entry) => entry.state === 'pending' && entry.phase === 'expand')
    if (phase === 'contract' && missingExpand)
      throw new MigrationError(`expand migration ${missingExpand.number} is not applied yet; run up first`)
    for (const migration of due) {
      report?.(migration)
      await (migration.transactional ? applyInTransaction : applyStepwise)(client, migration)
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
