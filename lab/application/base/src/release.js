'use strict'

const fs = require('node:fs')
const path = require('node:path')

const MANIFEST = path.join(__dirname, '..', 'release.json')

/** What was built: {version, sha, release_id, schema_revision}, written by `npm run build`. */
function readRelease() {
  const release = JSON.parse(fs.readFileSync(MANIFEST, 'utf8'))
  for (const field of ['version', 'sha', 'release_id', 'schema_revision']) {
    if (release[field] === undefined) throw new Error(`${MANIFEST}: ${field} is missing; build the release again`)
  }
  return Object.freeze(release)
}

module.exports = { readRelease }
