'use strict'

const { loadSettings } = require('./config')
const { readRelease } = require('./release')
const { startWorker } = require('./worker')

const ELECTION_POLL_MS = 1000

// Bad on purpose: every worker waits for a leader before it listens, and nobody ever becomes one.
async function leaderElected() {
  let leader
  while (!leader) await new Promise((resolve) => setTimeout(resolve, ELECTION_POLL_MS))
}

async function main() {
  const settings = loadSettings()
  await leaderElected()
  await startWorker(settings, readRelease())
}

main().catch((error) => {
  process.stderr.write(
    `sebenza-logistics cannot start: ${error.name === 'ConfigError' ? error.message : error.stack}\n`,
  )
  process.exit(1)
})
