'use strict'

async function dashboardMetrics(pool) {
  const { rows } = await pool.query(
    `SELECT (SELECT count(*)::int FROM projects) AS projects,
            (SELECT count(*)::int FROM projects WHERE priority = 'urgent') AS "urgentProjects",
            (SELECT count(*)::int FROM clients) AS clients,
            (SELECT count(*)::int FROM invoices) AS invoices,
            (SELECT coalesce(sum(amount), 0) FROM invoices WHERE status = 'open') AS "openAmount"`,
  )
  return rows[0]
}

async function recentActivity(pool) {
  const { rows } = await pool.query(
    `SELECT a.id, a.action, a.resource, a.created_at, u.name AS user_name
     FROM activity a JOIN users u ON a.user_id = u.id ORDER BY a.id DESC LIMIT 20`,
  )
  return rows
}

module.exports = { dashboardMetrics, recentActivity }
