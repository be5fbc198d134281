'use strict'

const INDEX_NAME = '([a-z_][a-z0-9_$]*)'
const CREATE_INDEX = new RegExp(
  `^CREATE\\s+(?:UNIQUE\\s+)?INDEX\\s+CONCURRENTLY\\s+(?:IF\\s+NOT\\s+EXISTS\\s+)?${INDEX_NAME}\\s+ON\\s`,
  'i',
)
const DROP_INDEX = new RegExp(`^DROP\\s+INDEX\\s+CONCURRENTLY\\s+(?:IF\\s+EXISTS\\s+)?${INDEX_NAME}\\s*$`, 'i')

/** The statements of a migration outside a transaction. */
function statementsOf(migration) {
  return migration.sql
    .replace(/--.*$/gm, '')
    .split(/;\s*$/m)
    .map((statement) => statement.trim())
    .filter(Boolean)
}

function parse(statement) {
  // A quoted name may be any text; looking for it under another one would be worse than asking a person.
  if (statement.includes('"')) return { kind: 'other' }
  const created = CREATE_INDEX.exec(statement)
  if (created) return { kind: 'create', index: created[1].toLowerCase() }
  const dropped = DROP_INDEX.exec(statement)
  return dropped ? { kind: 'drop', index: dropped[1].toLowerCase() } : { kind: 'other' }
}

/** Whether each statement's effect can be seen in the catalog, so that an interrupted migration can be gone on with. */
function isResumable(migration) {
  return statementsOf(migration).every((statement) => parse(statement).kind !== 'other')
}

/** An index: "valid", "invalid" (what an interrupted CREATE or DROP INDEX CONCURRENTLY leaves) or "absent". */
async function indexState(client, index) {
  const { rows } = await client.query(
    `SELECT i.indisvalid FROM pg_index i WHERE i.indexrelid = to_regclass(quote_ident($1))`,
    [index],
  )
  if (rows.length === 0) return 'absent'
  return rows[0].indisvalid ? 'valid' : 'invalid'
}

async function isDone(client, step) {
  const state = await indexState(client, step.index)
  return step.kind === 'create' ? state === 'valid' : state === 'absent'
}

async function dropInvalid(client, step) {
  if (step.kind === 'create' && (await indexState(client, step.index)) === 'invalid')
    await client.query(`DROP INDEX CONCURRENTLY ${client.escapeIdentifier(step.index)}`)
}

/** Runs the statements; those that an earlier, interrupted attempt has finished are left, invalid indexes are made anew. */
async function runStatements(client, migration, { resuming }) {
  for (const statement of statementsOf(migration)) {
    const step = parse(statement)
    if (resuming) {
      if (await isDone(client, step)) continue
      await dropInvalid(client, step)
    }
    await client.query(statement)
  }
}

/** After a failure: removes invalid indexes. Says whether nothing of the migration is left, so that it is pending again. */
async function cleanUp(client, migration) {
  if (!isResumable(migration)) return false
  const steps = statementsOf(migration).map(parse)
  if (steps.some((step) => step.kind === 'drop')) return false
  for (const step of steps) await dropInvalid(client, step)
  for (const step of steps) if ((await indexState(client, step.index)) !== 'absent') return false
  return true
}

/** What of an interrupted migration is in the schema, for people. */
async function describeRemains(client, migration) {
  const said = []
  for (const statement of statementsOf(migration)) {
    const step = parse(statement)
    const short = statement.replace(/\s+/g, ' ').slice(0, 70)
    if (step.kind === 'other') said.push(`'${short}': look whether it was done`)
    else said.push(`'${short}': index ${step.index} is ${await indexState(client, step.index)}`)
  }
  return said.join('; ')
}

module.exports = { cleanUp, describeRemains, isResumable, runStatements }
