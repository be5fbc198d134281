'use strict'

const Redis = require('ioredis')
const { LRUCache } = require('lru-cache')

// Entries of another format must never be read: the number changes with the shape of what is cached.
const PREFIX = 'sebenza:1:'
// Other workers do not hear of an invalidation, so the local level may be stale for this long at most.
const LOCAL_TTL_MS = 2000
const LOCAL_ENTRIES = 1000
const SCAN_BATCH = 500

function createRedis(settings, logger) {
  const redis = new Redis(settings.cache.url, {
    connectTimeout: 1000,
    commandTimeout: 300,
    // Fail at once while Redis is away: the database answers instead.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: (attempt) => Math.min(attempt * 100, 2000),
  })
  let reported
  redis.on('error', (error) => {
    if (error.message !== reported) logger.warn('cache unavailable', { error: error.message })
    reported = error.message
  })
  redis.on('ready', () => {
    if (reported) logger.info('cache available again')
    reported = undefined
  })
  return redis
}

function patternToRegExp(pattern) {
  const escaped = pattern.replace(/[.+^${}()|[\]\\]/g, '\\$&')
  return new RegExp(`^${escaped.replace(/\*/g, '.*').replace(/\?/g, '.')}$`)
}

/** Two levels: a small one in the process and Redis behind it. Without Redis every read goes to the database. */
class Cache {
  constructor(redis, { ttlSeconds, logger, count }) {
    this.redis = redis
    this.ttlSeconds = ttlSeconds
    this.logger = logger
    this.count = count
    this.local = new LRUCache({ max: LOCAL_ENTRIES, ttl: LOCAL_TTL_MS })
    this.loading = new Map()
    this.invalidations = 0
  }

  async get(key) {
    const near = this.local.get(key)
    if (near !== undefined) {
      this.count('local', 'hit')
      return near
    }
    this.count('local', 'miss')
    let text
    try {
      text = await this.redis.get(PREFIX + key)
    } catch {
      this.count('redis', 'error')
      return undefined
    }
    this.count('redis', text === null ? 'miss' : 'hit')
    if (text === null) return undefined
    const value = JSON.parse(text)
    this.local.set(key, value)
    return value
  }

  async set(key, value, ttlSeconds = this.ttlSeconds) {
    this.local.set(key, value)
    await this.redis
      .set(PREFIX + key, JSON.stringify(value), 'EX', Math.min(ttlSeconds, this.ttlSeconds))
      .catch(() => undefined)
  }

  /** The cached value, or what load() answers; requests that miss together load once. */
  async getOrLoad(key, ttlSeconds, load) {
    const cached = await this.get(key)
    if (cached !== undefined) return cached
    const pending = this.loading.get(key)
    if (pending) return pending
    const generation = this.invalidations
    const work = (async () => {
      const value = JSON.parse(JSON.stringify(await load()))
      // What was read before an invalidation may be old: it is answered, not kept.
      if (generation === this.invalidations) await this.set(key, value, ttlSeconds)
      return value
    })()
    this.loading.set(key, work)
    try {
      return await work
    } finally {
      if (this.loading.get(key) === work) this.loading.delete(key)
    }
  }

  /** Forgets every key that matches the glob pattern, in both levels. SCAN and UNLINK in batches: KEYS would block Redis. */
  async invalidate(pattern) {
    this.invalidations += 1
    const matches = patternToRegExp(pattern)
    for (const key of [...this.local.keys()]) if (matches.test(key)) this.local.delete(key)
    for (const key of [...this.loading.keys()]) if (matches.test(key)) this.loading.delete(key)
    let removed = 0
    try {
      let cursor = '0'
      do {
        const [next, keys] = await this.redis.scan(cursor, 'MATCH', PREFIX + pattern, 'COUNT', SCAN_BATCH)
        if (keys.length > 0) removed += await this.redis.unlink(...keys)
        cursor = next
      } while (cursor !== '0')
    } catch (error) {
      this.logger.warn('cache invalidation failed, entries live until they expire', { pattern, error: error.message })
    }
    return removed
  }
}

module.exports = { Cache, createRedis, PREFIX }
