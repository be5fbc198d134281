#!/usr/bin/env node
'use strict'

const { parseArgs } = require('node:util')

const { loadSettings } = require('../dist/config')
const { seed } = require('../dist/seed')

async function main() {
  const { values } = parseArgs({ options: { settings: { type: 'string' } } })
  const settings = loadSettings(values.settings)
  const added = await seed(settings)
  process.stdout.write(`${settings.environment}: ${added} rows added\n`)
}

main().catch((error) => {
  process.stderr.write(`seed: ${error.message || error.code}\n`)
  process.exitCode = 1
})
