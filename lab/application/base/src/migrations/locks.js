'use strict'

const POLL_MS = 200
// What a look at the locks itself takes.
const NOT_OURS = "n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')"

// Never the text of a session's statement: it may hold customers' data.
const BLOCKING = `SELECT a.pid, a.usename, a.application_name, a.client_addr::text AS address, a.state,
  round(extract(epoch FROM clock_timestamp() - a.xact_start))::int AS seconds
  FROM unnest(pg_blocking_pids($1)) AS blocking (pid) LEFT JOIN pg_stat_activity a ON a.pid = blocking.pid
  WHERE a.pid IS NOT NULL`

function describeSession(session) {
  const who = `${session.usename ?? 'unknown'}${session.address ? ` from ${session.address}` : ''}`
  const since = session.seconds === null ? '' : ` for ${session.seconds} s`
  return `pid ${session.pid} (${who}, ${session.application_name || 'no application name'}, ${session.state ?? 'state not visible'}${since})`
}

/** Runs work on client and remembers, from a second connection, which sessions it waited for last. */
async function watchingLocks(client, connectObserver, seen, work) {
  // The watch is a service to people, never a reason to fail: without a connection left there is none.
  const observer = await connectObserver().catch(() => undefined)
  if (!observer) return work()
  let over = false
  const look = async () => {
    while (!over) {
      try {
        const { rows } = await observer.query(BLOCKING, [client.processID])
        if (rows.length > 0) seen.blocking = rows.map(describeSession)
        if (seen.sampled) for (const lock of await locksOf(observer, client.processID, seen.known)) seen.sampled.add(lock)
      } catch {
        return
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }
  const looking = look()
  try {
    return await work()
  } finally {
    over = true
    await looking
    await observer.end().catch(() => undefined)
  }
}

/** The relations that exist now: locks on what a migration makes itself disturb nobody. */
async function knownRelations(client) {
  const { rows } = await client.query(
    `SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ${NOT_OURS}`,
  )
  return rows.map((row) => row.oid)
}

/** The locks that a session holds on relations that were there before, each as "mode relation". */
async function locksOf(client, pid, known) {
  const { rows } = await client.query(
    `SELECT DISTINCT l.mode, c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
      JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE l.pid = $1 AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND ${NOT_OURS} AND c.oid = ANY($2::oid[]) AND c.relname NOT LIKE 'schema_migrations%'`,
    [pid, known],
  )
  return rows.map((row) => `${row.mode} ${row.relname}`).sort()
}

module.exports = { knownRelations, locksOf, watchingLocks }
