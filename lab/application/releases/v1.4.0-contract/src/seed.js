'use strict'

const { Client } = require('pg')

// Ids come from md5 of a name, so every seeding of every machine makes the same rows.
const statements = ({ users, clients, projects, invoices }) => [
  `INSERT INTO users (id, email, name, role)
   SELECT md5('user-' || n)::uuid, format('user%s@sebenza.example', lpad(n::text, 4, '0')), 'User ' || n,
          CASE WHEN n % 10 = 1 THEN 'manager' ELSE 'planner' END
   FROM generate_series(1, ${users}) n ON CONFLICT DO NOTHING`,
  `INSERT INTO clients (id, reference, name)
   SELECT md5('client-' || n)::uuid, 'C-' || lpad(n::text, 4, '0'), 'Client ' || n
   FROM generate_series(1, ${clients}) n ON CONFLICT DO NOTHING`,
  `INSERT INTO projects (id, name, client_id, status, team_members, created_at, updated_at)
   SELECT md5('project-' || n)::uuid, 'Project ' || n, md5('client-' || 1 + n % ${clients})::uuid,
          CASE WHEN n % 4 = 0 THEN 'done' ELSE 'active' END,
          jsonb_build_array(md5('user-' || 1 + n % ${users})::uuid, md5('user-' || 1 + (n * 7) % ${users})::uuid), at, at
   FROM generate_series(1, ${projects}) n, LATERAL (SELECT timestamptz '2026-01-01 00:00Z' + n * interval '1 hour' AS at) t
   ON CONFLICT DO NOTHING`,
  `INSERT INTO invoices (id, client_id, amount_cents, currency, status, created_by, created_at)
   SELECT md5('invoice-' || n)::uuid, md5('client-' || 1 + n % ${clients})::uuid, n * 137 % 100000, 'ZAR',
          CASE WHEN n % 3 = 0 THEN 'paid' ELSE 'open' END, md5('user-' || 1 + n % ${users})::uuid,
          timestamptz '2026-01-01 00:00Z' + n * interval '10 minutes'
   FROM generate_series(1, ${invoices}) n ON CONFLICT DO NOTHING`,
]

const SIZES = {
  // Mock data to develop with.
  development: { users: 200, clients: 100, projects: 1000, invoices: 5000 },
  staging: { users: 20, clients: 10, projects: 60, invoices: 200 },
  production: { users: 20, clients: 10, projects: 60, invoices: 200 },
}

/** Fills an empty database, or adds what is missing; it changes no row that exists. Returns how many rows it added. */
async function seed(settings) {
  const client = new Client({
    connectionString: settings.database.url,
    connectionTimeoutMillis: settings.database.connectTimeoutMs,
  })
  await client.connect()
  try {
    let added = 0
    await client.query('BEGIN')
    for (const statement of statements(SIZES[settings.environment])) added += (await client.query(statement)).rowCount
    await client.query('COMMIT')
    return added
  } finally {
    await client.end()
  }
}

module.exports = { seed }
