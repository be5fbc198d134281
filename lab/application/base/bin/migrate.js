#!/usr/bin/env node
'use strict'

const { parseArgs } = require('node:util')

const { loadSettings } = require('../dist/config')
const { HalfAppliedError, LockConflictError, readMigrations } = require('../dist/migrations/files')
const { migrateUp, migrationPlan, migrationStatus, resolveMigration } = require('../dist/migrations/runner')

const USAGE = `usage: migrate.js --settings FILE [--json] [--lock-timeout-ms 5000] [--statement-timeout-ms 60000] [--locks] COMMAND
  status                              every migration and its state
  plan [--phase expand|contract]      what up would apply
  up   [--phase expand|contract]      apply the pending migrations of a phase (default: expand)
  resolve NUMBER applied|pending      settle a half-applied migration by hand
  list                                this release's migrations (needs no database)
With --json, up says of each migration how long it took; with --locks also which locks it held.
Exit status: 1 failed, 2 wrong use, 4 a lock was not to be had (the schema is as before), 5 half-applied, needs a person`

const EXIT_LOCK_CONFLICT = 4
const EXIT_HALF_APPLIED = 5

function fail(message, code) {
  process.stderr.write(`${message}\n`)
  process.exitCode = code
}

function parse() {
  const options = {
    settings: { type: 'string' },
    phase: { type: 'string', default: 'expand' },
    'lock-timeout-ms': { type: 'string', default: '5000' },
    'statement-timeout-ms': { type: 'string', default: '60000' },
    locks: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  }
  const { values, positionals } = parseArgs({ options, allowPositionals: true })
  if (!['expand', 'contract'].includes(values.phase))
    throw new Error(`--phase: expected expand or contract, got '${values.phase}'`)
  for (const name of ['lock-timeout-ms', 'statement-timeout-ms'])
    if (!/^[1-9]\d{0,7}$/.test(values[name])) throw new Error(`--${name}: expected a number of milliseconds`)
  return {
    ...values,
    lockTimeoutMs: Number(values['lock-timeout-ms']),
    statementTimeoutMs: Number(values['statement-timeout-ms']),
    command: positionals[0],
    rest: positionals.slice(1),
  }
}

function print(entries, json) {
  if (json) process.stdout.write(`${JSON.stringify(entries)}\n`)
  else
    for (const entry of entries)
      process.stdout.write(`${String(entry.number).padStart(4, '0')} ${entry.name} ${entry.phase} ${entry.state}\n`)
}

const summary = (migration, state) => ({
  number: migration.number,
  name: migration.name,
  phase: migration.phase,
  state,
})

const COMMANDS = {
  list: async ({ json }) =>
    print(
      readMigrations().map((migration) => summary(migration, 'released')),
      json,
    ),
  status: async ({ settings, json }) => print(await migrationStatus(settings), json),
  plan: async ({ settings, phase, json }) => print(await migrationPlan(settings, phase), json),
  async up({ settings, phase, lockTimeoutMs, statementTimeoutMs, locks, json }) {
    const report = (migration) => process.stderr.write(`applying ${migration.file}\n`)
    const ended = []
    const done = (migration, { state, seconds, locks: held }) =>
      ended.push({ ...summary(migration, state), seconds: Math.round(seconds * 1000) / 1000, locks: held })
    try {
      await migrateUp(settings, phase, { report, done, withLocks: locks, lockTimeoutMs, statementTimeoutMs })
    } finally {
      // What was applied before a failure stays applied, and is said.
      print(ended, json)
    }
    if (!json && ended.length === 0) process.stdout.write(`nothing to do, no pending ${phase} migration\n`)
  },
  async resolve({ settings, rest: [number, verdict] }) {
    if (!/^\d+$/.test(number ?? '') || !['applied', 'pending'].includes(verdict)) throw new Error(USAGE)
    await resolveMigration(settings, Number(number), verdict)
    process.stdout.write(`migration ${number} is now ${verdict}\n`)
  },
}

async function main() {
  let options
  try {
    options = parse()
    if (!COMMANDS[options.command]) throw new Error(USAGE)
  } catch (error) {
    fail(error.message, 2)
    return
  }
  try {
    if (options.command !== 'list') options.settings = loadSettings(options.settings)
    await COMMANDS[options.command](options)
  } catch (error) {
    const code =
      error instanceof LockConflictError ? EXIT_LOCK_CONFLICT : error instanceof HalfAppliedError ? EXIT_HALF_APPLIED : 1
    fail(`migrate ${options.command}: ${error.message || error.code}`, code)
  }
}

main()
