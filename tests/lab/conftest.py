"""Fixtures of the lab's tests."""

from tests.lab.application_fixtures import app_estate, app_releases, app_servers

__all__ = ["app_estate", "app_releases", "app_servers"]
