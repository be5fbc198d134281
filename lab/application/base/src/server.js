'use strict'

const { loadSettings } = require('./config')
const { readRelease } = require('./release')
const { startWorker } = require('./worker')

async function main() {
  await startWorker(loadSettings(), readRelease())
}

main().catch((error) => {
  process.stderr.write(
    `sebenza-logistics cannot start: ${error.name === 'ConfigError' ? error.message : error.stack}\n`,
  )
  process.exit(1)
})
