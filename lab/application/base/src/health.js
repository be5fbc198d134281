'use strict'

const CACHED_MS = 500
const CACHE_TIMEOUT_MS = 500

async function timed(check) {
  const started = performance.now()
  try {
    return { status: 'ok', ...(await check()), latency_ms: Math.round(performance.now() - started) }
  } catch (error) {
    return { status: 'failed', message: error.message, latency_ms: Math.round(performance.now() - started) }
  }
}

function within(promise, timeoutMs, what) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not answer within ${timeoutMs} ms`)), timeoutMs)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/**
 * Deep health: the database must be writable and have the expand migrations of this release. Without its cache the application
 * is slower but right, so that is 'degraded' and still 200: taking all hosts out would make an outage of a slowdown.
 */
class Health {
  constructor({ healthPool, redis, release, color, requiredMigrations }) {
    Object.assign(this, { healthPool, redis, release, color, requiredMigrations })
    this.answer = undefined
    this.validUntil = 0
  }

  /** {httpStatus, body}; an answer is shared for up to 500 ms so that checks never add up to load. */
  check() {
    const now = performance.now()
    if (!this.answer || now >= this.validUntil) {
      this.validUntil = Infinity
      this.answer = this.examine().finally(() => {
        this.validUntil = performance.now() + CACHED_MS
      })
    }
    return this.answer
  }

  async examine() {
    const [database, cache] = await Promise.all([timed(() => this.checkDatabase()), timed(() => this.checkCache())])
    if (cache.status === 'failed') cache.status = 'degraded'
    const failed = database.status === 'failed'
    return {
      httpStatus: failed ? 503 : 200,
      body: {
        status: failed ? 'failed' : cache.status,
        checks: { database, cache },
        release: { version: this.release.version, sha: this.release.sha, release_id: this.release.release_id },
        color: this.color,
      },
    }
  }

  async checkDatabase() {
    const { rows } = await within(
      this.healthPool.query(
        'SELECT pg_is_in_recovery() AS read_only, array(SELECT number FROM schema_migrations WHERE finished_at IS NOT NULL) AS applied',
      ),
      1500,
      'database',
    )
    if (rows[0].read_only) throw new Error('database is read only (a replica)')
    const missing = this.requiredMigrations.filter((number) => !rows[0].applied.includes(number))
    if (missing.length > 0) throw new Error(`schema migrations not applied: ${missing.join(', ')}; run db:migrate up`)
    return { schema_revision: Math.max(0, ...rows[0].applied) }
  }

  async checkCache() {
    await within(this.redis.ping(), CACHE_TIMEOUT_MS, 'cache')
    return {}
  }
}

module.exports = { Health }
