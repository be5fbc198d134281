'use strict'

const fs = require('node:fs')

const ASSIGNMENT = /^\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)$/

function unquote(raw) {
  const value = raw.trim()
  const quote = value[0]
  if (quote !== "'" && quote !== '"') return value.replace(/\s+#.*$/, '')
  const end = value.indexOf(quote, 1)
  if (end === -1) throw new Error('has no closing quote')
  if (!/^\s*(#.*)?$/.test(value.slice(end + 1))) throw new Error('has text after its closing quote')
  return value.slice(1, end)
}

/** Reads NAME=value lines. The values never go into process.env, where PM2's dump and /proc would show them. */
function readEnvFile(path) {
  const variables = {}
  const lines = fs.readFileSync(path, 'utf8').split(/\r?\n/)
  lines.forEach((line, index) => {
    if (/^\s*(#|$)/.test(line)) return
    const match = ASSIGNMENT.exec(line)
    if (!match) throw new Error(`${path}:${index + 1}: expected NAME=value`)
    if (match[1] in variables) throw new Error(`${path}:${index + 1}: ${match[1]} is set a second time`)
    try {
      variables[match[1]] = unquote(match[2])
    } catch (error) {
      throw new Error(`${path}:${index + 1}: ${match[1]} ${error.message}`)
    }
  })
  return variables
}

module.exports = { readEnvFile }
