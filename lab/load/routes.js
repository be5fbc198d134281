'use strict'

// The routes and weights of the manual's load test (three journeys, 40 : 30 : 30), reads and writes apart so that their share
// can be chosen: on a machine that is also the whole estate, one write in four would measure the disk.
const READS = [
  { weight: 40, name: '/api/v1/auth/me', path: () => '/api/v1/auth/me', expected: [200] },
  { weight: 40, name: '/api/v1/projects', path: () => '/api/v1/projects', expected: [200] },
  // The manual asks for random ids, which nobody has.
  { weight: 40, name: '/api/v1/projects/:id', path: (word) => `/api/v1/projects/${word()}`, expected: [200, 404] },
  { weight: 30, name: '/api/v1/invoices', path: () => '/api/v1/invoices', expected: [200] },
  { weight: 30, name: '/api/v1/dashboard/metrics', path: () => '/api/v1/dashboard/metrics', expected: [200] },
  { weight: 30, name: '/api/v1/dashboard/recent-activity', path: () => '/api/v1/dashboard/recent-activity', expected: [200] },
]
// Clients that every environment's sample data has: invoices for the manual's random ones would only be refused.
const CLIENTS = 10
const WRITES = [
  { weight: 40, name: '/api/v1/projects', path: () => '/api/v1/projects', body: () => ({ name: 'Test Project' }), expected: [200, 201] },
  { weight: 30, name: '/api/v1/invoices', path: () => '/api/v1/invoices', body: (word, client) => ({ clientId: client() }), expected: [200, 201] },
]

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
function createRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

function weighted(random, routes) {
  const total = routes.reduce((sum, route) => sum + route.weight, 0)
  return () => {
    let position = random() * total
    return routes.find((route) => (position -= route.weight) < 0) ?? routes[0]
  }
}

/** A function that gives the next request: {method, path, name, body, expected}. `paths` replaces the mix by plain reads. */
function createRouteMix(random, writeShare, paths) {
  const word = () => Math.floor(random() * 2 ** 40).toString(36)
  const client = () => `C-${String(1 + Math.floor(random() * CLIENTS)).padStart(4, '0')}`
  const reads = paths?.length ? paths.map((path) => ({ weight: 1, name: path, path: () => path, expected: [200] })) : READS
  const [nextRead, nextWrite] = [weighted(random, reads), weighted(random, WRITES)]
  return () => {
    const write = !paths?.length && random() < writeShare
    const route = write ? nextWrite() : nextRead()
    const body = write ? JSON.stringify(route.body(word, client)) : undefined
    return { method: write ? 'POST' : 'GET', path: route.path(word), name: route.name, body, expected: route.expected }
  }
}

module.exports = { createRandom, createRouteMix }
