#!/usr/bin/env node
'use strict'

const { parseArgs } = require('node:util')

const { loadSettings } = require('../dist/config')
const { readMigrations } = require('../dist/migrations/files')
const { migrateUp, migrationPlan, migrationStatus, resolveMigration } = require('../dist/migrations/runner')

const USAGE = `usage: migrate.js --settings FILE [--json] [--lock-timeout-ms 5000] COMMAND
  status                              every migration and its state
  plan [--phase expand|contract]      what up would apply
  up   [--phase expand|contract]      apply the pending migrations of a phase (default: expand)
  resolve NUMBER applied|pending      settle a half-applied migration by hand
  list                                this release's migrations (needs no database)`

function fail(message, code) {
  process.stderr.write(`${message}\n`)
  process.exitCode = code
}

function parse() {
  const options = {
    settings: { type: 'string' },
    phase: { type: 'string', default: 'expand' },
    'lock-timeout-ms': { type: 'string', default: '5000' },
    json: { type: 'boolean', default: false },
  }
  const { values, positionals } = parseArgs({ options, allowPositionals: true })
  if (!['expand', 'contract'].includes(values.phase))
    throw new Error(`--phase: expected expand or contract, got '${values.phase}'`)
  if (!/^[1-9]\d{0,6}$/.test(values['lock-timeout-ms']))
    throw new Error('--lock-timeout-ms: expected a number of milliseconds')
  return {
    ...values,
    lockTimeoutMs: Number(values['lock-timeout-ms']),
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
  async up({ settings, phase, lockTimeoutMs, json }) {
    const report = (migration) => process.stderr.write(`applying ${migration.file}\n`)
    const applied = await migrateUp(settings, phase, { report, lockTimeoutMs })
    print(
      applied.map((migration) => summary(migration, 'applied')),
      json,
    )
    if (!json && applied.length === 0) process.stdout.write(`nothing to do, no pending ${phase} migration\n`)
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
    fail(`migrate ${options.command}: ${error.message || error.code}`, 1)
  }
}

main()
