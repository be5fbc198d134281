'use strict'

const { inTransaction } = require('../database')
const { recordActivity } = require('./activity')
const { clientId } = require('./clients')

const COLUMNS = 'p.id, p.name, p.status, p.team_members, p.created_at, p.updated_at, c.name AS client_name'

async function listProjects(pool, userId) {
  const { rows } = await pool.query(
    `SELECT ${COLUMNS} FROM projects p JOIN clients c ON p.client_id = c.id
     WHERE p.team_members @> $1 ORDER BY p.updated_at DESC LIMIT 50`,
    [JSON.stringify([userId])],
  )
  return rows
}

async function projectById(pool, id) {
  const { rows } = await pool.query(
    `SELECT ${COLUMNS} FROM projects p JOIN clients c ON p.client_id = c.id WHERE p.id = $1`,
    [id],
  )
  return rows[0]
}

async function createProject(pool, project, userId) {
  return inTransaction(pool, async (connection) => {
    const client = await clientId(connection, project.client)
    const { rows } = await connection.query(
      'INSERT INTO projects (name, client_id, team_members) VALUES ($1, $2, $3) RETURNING id, name, status, team_members, created_at',
      [project.name, client, JSON.stringify([userId])],
    )
    await recordActivity(connection, userId, 'create', `project ${rows[0].id}`)
    return rows[0]
  })
}

module.exports = { listProjects, projectById, createProject }
