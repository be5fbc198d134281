'use strict'

const { createHash } = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')

const DIRECTORY = path.join(__dirname, '..', '..', 'migrations')
const FILE_NAME = /^(\d{4})_([a-z0-9_]+)\.sql$/
const PHASES = ['expand', 'contract']
// What a release that still runs may not survive. Such statements belong into a contract migration.
const BREAKING =
  /\b(DROP\s+(TABLE|COLUMN|VIEW)|RENAME\s+(TO|COLUMN)|ALTER\s+COLUMN\s+\S+\s+(TYPE|SET\s+NOT\s+NULL|DROP\s+DEFAULT))\b/i

class MigrationError extends Error {
  constructor(message) {
    super(message)
    this.name = 'MigrationError'
  }
}

/** Somebody else held a lock for too long: the schema is as before, and another attempt may succeed. */
class LockConflictError extends MigrationError {}

/** A migration that was interrupted and needs a person. */
class HalfAppliedError extends MigrationError {}

function header(sql, name, fallback) {
  return new RegExp(`^-- ${name}: *(\\S+) *$`, 'm').exec(sql)?.[1] ?? fallback
}

function readMigration(directory, file) {
  const match = FILE_NAME.exec(file)
  if (!match) throw new MigrationError(`migrations/${file}: expected a name such as 0001_first_tables.sql`)
  const sql = fs.readFileSync(path.join(directory, file), 'utf8')
  const phase = header(sql, 'phase')
  if (!PHASES.includes(phase))
    throw new MigrationError(`migrations/${file}: expected a line '-- phase: expand' or '-- phase: contract'`)
  const statements = sql.replace(/--.*$/gm, '')
  if (phase === 'expand' && BREAKING.test(statements)) {
    throw new MigrationError(
      `migrations/${file}: '${BREAKING.exec(statements)[0]}' breaks running releases; it belongs into a contract migration`,
    )
  }
  return {
    number: Number(match[1]),
    name: match[2],
    file,
    phase,
    transactional: header(sql, 'transaction', 'yes') !== 'none',
    checksum: createHash('sha256').update(sql).digest('hex'),
    sql,
  }
}

/** The release's migrations by number. */
function readMigrations(directory = DIRECTORY) {
  const files = fs.readdirSync(directory).filter((file) => file.endsWith('.sql'))
  const migrations = files.sort().map((file) => readMigration(directory, file))
  migrations.forEach((migration, index) => {
    if (index > 0 && migrations[index - 1].number === migration.number) {
      throw new MigrationError(`migrations/${migration.file}: number ${migration.number} is used twice`)
    }
  })
  return migrations
}

/** The highest number: what a release calls its schema revision. */
function schemaRevision(migrations = readMigrations()) {
  return Math.max(0, ...migrations.map((migration) => migration.number))
}

/** What the database must have before this release can work; contract migrations come after it. */
function requiredMigrations() {
  return readMigrations()
    .filter((migration) => migration.phase === 'expand')
    .map((migration) => migration.number)
}

module.exports = { HalfAppliedError, LockConflictError, MigrationError, readMigrations, requiredMigrations, schemaRevision }
