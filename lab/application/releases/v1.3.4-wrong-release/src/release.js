'use strict'

const fs = require('node:fs')
const path = require('node:path')

// Bad on purpose: a manifest that a developer once committed is read instead of the one that the build writes, so this release
// works well and says that it is another.
const MANIFEST = path.join(__dirname, 'release-manifest.json')

/** What was built: {version, sha, release_id, schema_revision}. */
function readRelease() {
  return Object.freeze(JSON.parse(fs.readFileSync(MANIFEST, 'utf8')))
}

module.exports = { readRelease }
