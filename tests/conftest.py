"""Registers the fixtures that tests of several chapters share, and runs the quick tests first."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A busy machine is no failure of what is tested.
settings.register_profile("sebenza", deadline=None)
settings.load_profile("sebenza")

pytest_plugins = ["tests.fixtures_airflow", "tests.fixtures_browser", "tests.fixtures_estate"]

# From quick to slow: a mistake in a rule shows up before the first server starts.
_STAGES = ("integration", "airflow", "lab", "browser")
# Whoever asks for one of these shares it with all others, so that it can't run beside them.
_SHARED = {"estate": "lab", "airflow": "airflow", "browser": "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they share, sort by what a test needs, and keep the order of files within."""
    for item in items:
        for fixture in _SHARED.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(_SHARED[fixture])
    items.sort(key=_stage)


def _stage(item: pytest.Item) -> int:
    return max((number for number, name in enumerate(_STAGES, 1) if item.get_closest_marker(name)), default=0)
