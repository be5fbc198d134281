'use strict'

const path = require('node:path')

const { readEnvFile } = require('./envfile')

/** A variable that is missing or has a value that cannot be used; the message names it and never shows a secret. */
class ConfigError extends Error {
  constructor(variable, problem) {
    super(`${variable}: ${problem}`)
    this.name = 'ConfigError'
    this.variable = variable
  }
}

const ENVIRONMENTS = ['production', 'staging', 'development']
const LOG_LEVELS = ['error', 'warn', 'info', 'debug']
const COLORS = ['blue', 'green']

function reader(variables) {
  const given = (name) => (variables[name] === '' ? undefined : variables[name])
  return {
    text: (name, fallback) => given(name) ?? fallback,
    choice(name, allowed, fallback) {
      const value = given(name) ?? fallback
      if (!allowed.includes(value))
        throw new ConfigError(name, `expected one of ${allowed.join(', ')}, got '${value ?? ''}'`)
      return value
    },
    integer(name, minimum, maximum, fallback) {
      const raw = given(name)
      if (raw === undefined) return fallback
      const value = Number(raw)
      if (!/^\d+$/.test(raw) || value < minimum || value > maximum) {
        throw new ConfigError(name, `expected a whole number from ${minimum} to ${maximum}, got '${raw}'`)
      }
      return value
    },
    boolean(name, fallback) {
      const raw = given(name)
      if (raw === undefined) return fallback
      if (raw !== 'true' && raw !== 'false') throw new ConfigError(name, `expected true or false, got '${raw}'`)
      return raw === 'true'
    },
    url(name, schemes, required) {
      const raw = given(name)
      if (raw === undefined) {
        if (required) throw new ConfigError(name, `is required, a URL starting with ${schemes.join(' or ')}`)
        return ''
      }
      let parsed
      try {
        parsed = new URL(raw)
      } catch {
        throw new ConfigError(name, 'is not a URL (value not shown)')
      }
      if (!schemes.includes(`${parsed.protocol}//`))
        throw new ConfigError(name, `expected a URL starting with ${schemes.join(' or ')}`)
      return raw
    },
  }
}

function metricsPath(raw) {
  if (!raw) return '/metrics'
  const value = /^https?:\/\//.test(raw) ? new URL(raw).pathname : raw
  if (!/^\/[A-Za-z0-9._/-]+$/.test(value))
    throw new ConfigError('METRICS_ENDPOINT', `expected a path such as /metrics, got '${raw}'`)
  return value
}

/** Settings from variables, with the operations manual's defaults; throws ConfigError on the first bad one. */
function parseSettings(variables, envFile) {
  const read = reader(variables)
  const environment = read.choice('NODE_ENV', ENVIRONMENTS, 'development')
  const baseDir = path.dirname(envFile)
  return Object.freeze({
    environment,
    color: read.choice('SEBENZA_COLOR', COLORS, undefined),
    app: Object.freeze({
      host: read.text('APP_HOST', '127.0.0.1'),
      port: read.integer('APP_PORT', 1, 65535, 3000),
      logLevel: read.choice('LOG_LEVEL', LOG_LEVELS, 'info'),
      logDir: read.text('SEBENZA_LOG_DIR', ''),
      // One directory for each color of a host: what is in it is what one scrape gathers. It may also come from the process
      // manager, which knows it before there is an env file.
      runDir: read.text('SEBENZA_RUN_DIR', process.env.SEBENZA_RUN_DIR || path.join(baseDir, 'run')),
      sessionTimeoutSeconds: read.integer('SESSION_TIMEOUT', 1, 604800, 3600),
      drainGraceMs: read.integer('DRAIN_GRACE_MS', 0, 60000, 500),
      drainTimeoutSeconds: read.integer('DRAIN_TIMEOUT', 1, 3600, 25),
    }),
    database: Object.freeze({
      url: read.url('DATABASE_URL', ['postgresql://', 'postgres://'], true),
      poolSize: read.integer('DB_POOL_SIZE', 1, 1000, environment === 'production' ? 20 : 10),
      queryTimeoutMs: read.integer('DB_QUERY_TIMEOUT', 1, 3600000, 30000),
      idleTimeoutMs: 30000,
      connectTimeoutMs: 2000,
    }),
    cache: Object.freeze({
      url: read.url('REDIS_URL', ['redis://', 'rediss://'], true),
      ttlSeconds: read.integer('CACHE_TTL', 1, 604800, 3600),
    }),
    monitoring: Object.freeze({
      enabled: read.boolean('METRICS_ENABLED', false),
      metricsPath: metricsPath(read.text('METRICS_ENDPOINT', '')),
      alertsWebhook: read.url('ALERTS_WEBHOOK', ['https://', 'http://'], false),
    }),
  })
}

/** Reads the file named by SEBENZA_ENV_FILE (or given). The file is the truth: process.env never overrides it. */
function loadSettings(envFile = process.env.SEBENZA_ENV_FILE) {
  if (!envFile) throw new ConfigError('SEBENZA_ENV_FILE', 'is not set; name the env file of this color')
  let variables
  try {
    variables = readEnvFile(envFile)
  } catch (error) {
    throw new ConfigError('SEBENZA_ENV_FILE', error.message)
  }
  return parseSettings(variables, path.resolve(envFile))
}

module.exports = { ConfigError, loadSettings, parseSettings }
