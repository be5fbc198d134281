'use strict'

const { Router, json } = require('express')

const { HttpError } = require('../errors')
const { isUuid, parseProject } = require('../input')
const { createProject, listProjects, projectById } = require('../queries/projects')

// The manual caches a user's projects for five minutes.
const PROJECTS_TTL_SECONDS = 300

const jsonBody = json({ limit: '1mb' })

function projectRoutes({ pool, cache, logger }) {
  const router = Router()

  router.get('/api/v1/projects', async (request, response) => {
    const load = () => listProjects(pool, request.userId)
    response.json({ projects: await cache.getOrLoad(`projects:${request.userId}:list`, PROJECTS_TTL_SECONDS, load) })
  })

  router.get('/api/v1/projects/:id', async (request, response) => {
    const project = isUuid(request.params.id) ? await projectById(pool, request.params.id) : undefined
    if (!project) throw new HttpError(404, 'project_not_found', 'no such project')
    response.json(project)
  })

  router.post('/api/v1/projects', jsonBody, async (request, response) => {
    const project = await createProject(pool, parseProject(request.body), request.userId)
    await cache.invalidate(`projects:${request.userId}:*`)
    logger.audit('create', request.userId, `project ${project.id}`)
    response.status(201).location(`/api/v1/projects/${project.id}`).json(project)
  })

  return router
}

module.exports = { projectRoutes }
