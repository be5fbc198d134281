'use strict'

const KEY = 'sebenza:active-users'
const FLUSH_MS = 2000

/** Who used the application within the session timeout, kept in Redis because a user meets many workers. */
class ActiveUsers {
  constructor(redis, sessionTimeoutSeconds) {
    this.redis = redis
    this.windowMs = sessionTimeoutSeconds * 1000
    this.seen = new Map()
    this.timer = setInterval(() => this.flush(), FLUSH_MS).unref()
  }

  touch(userId) {
    this.seen.set(userId, Date.now())
  }

  async flush() {
    const seen = this.seen
    if (seen.size === 0) return
    this.seen = new Map()
    const members = [...seen].flatMap(([userId, at]) => [at, userId])
    await this.redis
      .pipeline()
      .zadd(KEY, ...members)
      .zremrangebyscore(KEY, 0, Date.now() - this.windowMs)
      .exec()
      .catch(() => undefined)
  }

  /** The number of active users, or undefined when Redis cannot tell. */
  async count() {
    try {
      return await this.redis.zcount(KEY, Date.now() - this.windowMs, '+inf')
    } catch {
      return undefined
    }
  }

  stop() {
    clearInterval(this.timer)
  }
}

module.exports = { ActiveUsers }
