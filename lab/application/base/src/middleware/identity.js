'use strict'

const { createHash } = require('node:crypto')

const { requestContext } = require('../context')
const { HttpError } = require('../errors')
const { allUserIds } = require('../queries/users')

const BEARER = /^Bearer\s+(\S{1,512})$/

async function someUserIds(pool) {
  const ids = await allUserIds(pool)
  // Thrown here, so that an empty list is never cached: the next request finds what was seeded meanwhile.
  if (ids.length === 0) throw new HttpError(503, 'no_users', 'the database has no users; seed it')
  return ids
}

/**
 * The manual's load test sends random bearer tokens, so this application identifies rather than authenticates: a token stands,
 * always the same way, for one of the users. Without a token one may read as the first user, and not write.
 */
function identityMiddleware({ pool, cache, activeUsers }) {
  return async (request, response, next) => {
    const token = BEARER.exec(request.get('Authorization') ?? '')?.[1]
    if (!token && request.method !== 'GET' && request.method !== 'HEAD') {
      throw new HttpError(401, 'unauthenticated', 'send an Authorization header with a bearer token')
    }
    const ids = await cache.getOrLoad('users:ids', 60, () => someUserIds(pool))
    const position = token ? createHash('sha256').update(token).digest().readUInt32BE(0) % ids.length : 0
    request.userId = ids[position]
    requestContext.getStore().userId = request.userId
    activeUsers.touch(request.userId)
    next()
  }
}

module.exports = { identityMiddleware }
