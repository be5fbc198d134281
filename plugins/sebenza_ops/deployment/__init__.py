"""Deployment: releases, plans, moving traffic, watching it, and undoing it."""
