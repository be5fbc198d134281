'use strict'

/** Written in the transaction of the change itself, so the record and the change agree. */
async function recordActivity(connection, userId, action, resource) {
  await connection.query('INSERT INTO activity (user_id, action, resource) VALUES ($1, $2, $3)', [
    userId,
    action,
    resource,
  ])
}

module.exports = { recordActivity }
