"""Registers the fixtures that tests of several chapters share, and runs the quick tests first."""

from __future__ import annotations

import pytest

pytest_plugins = ["tests.fixtures_airflow", "tests.fixtures_browser", "tests.fixtures_estate"]

# From quick to slow: a mistake in a rule shows up before the first server starts.
_STAGES = ("integration", "airflow", "lab", "browser")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by what a test needs, and keep the order of files within."""
    items.sort(key=_stage)


def _stage(item: pytest.Item) -> int:
    return max((number for number, name in enumerate(_STAGES, 1) if item.get_closest_marker(name)), default=0)
