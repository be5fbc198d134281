'use strict'

const fs = require('node:fs')
const path = require('node:path')
const vm = require('node:vm')
const Module = require('node:module')

const root = path.join(__dirname, '..')
const source = path.join(root, 'src')
const target = path.join(root, 'dist')

function required(name, pattern, expected) {
  const value = process.env[name] ?? ''
  if (!pattern.test(value)) {
    process.stderr.write(`build: ${name}: expected ${expected}, got '${value}'\n`)
    process.exit(1)
  }
  return value
}

function checkSyntax(file) {
  new vm.Script(Module.wrap(fs.readFileSync(file, 'utf8')), { filename: file })
}

function filesBelow(directory) {
  return fs.readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const entryPath = path.join(directory, entry.name)
    return entry.isDirectory() ? filesBelow(entryPath) : [entryPath]
  })
}

const version = required('RELEASE_VERSION', /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, 'a version such as v1.0.0')
const sha = required('RELEASE_SHA', /^[0-9a-f]{40}$/, 'a full git SHA')
const releaseId = process.env.RELEASE_ID || `${version}-${sha.slice(0, 12)}`

for (const file of filesBelow(source)) if (file.endsWith('.js')) checkSyntax(file)
fs.rmSync(target, { recursive: true, force: true })
fs.cpSync(source, target, { recursive: true })

const { schemaRevision } = require('../dist/migrations/files')

const release = { version, sha, release_id: releaseId, schema_revision: schemaRevision() }
fs.writeFileSync(path.join(root, 'release.json'), `${JSON.stringify(release, null, 2)}\n`)
process.stdout.write(`built ${releaseId}, schema revision ${release.schema_revision}\n`)
