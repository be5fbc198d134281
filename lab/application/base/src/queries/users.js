'use strict'

async function allUserIds(pool) {
  const { rows } = await pool.query('SELECT id FROM users ORDER BY email')
  return rows.map((row) => row.id)
}

async function userById(pool, id) {
  const { rows } = await pool.query('SELECT id, email, name, role FROM users WHERE id = $1', [id])
  return rows[0] ?? null
}

module.exports = { allUserIds, userById }
