"""Registers the fixtures that tests of several chapters share, and runs the quick tests first."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from hypothesis import settings

from lab.waiting import slowness

# A busy machine is no failure of what is tested.
settings.register_profile("sebenza", deadline=None)
settings.load_profile("sebenza")

pytest_plugins = ["tests.fixtures_airflow", "tests.fixtures_browser", "tests.fixtures_estate"]

# From quick to slow: a mistake in a rule shows up before the first server starts.
_STAGES = ("integration", "airflow", "lab", "browser")
# Whoever asks for one of these shares it with all others, so that it can't run beside them.
# A test's time-out is there for what hangs, not for what is slow: that many times what it takes on an idle machine.
_FAR_BEYOND = 4
_SHARED = {"estate": "lab", "airflow": "airflow", "browser": "browser"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they share, sort by what a test needs, and keep the order of files within."""
    for item in items:
        for fixture in _SHARED.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(_SHARED[fixture])
    items.sort(key=_stage)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Set a test's time-out by the speed and the load of this machine, now."""
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(seconds * _FAR_BEYOND * slowness()), append=False)
    return (yield)


def _stage(item: pytest.Item) -> int:
    return max((number for number, name in enumerate(_STAGES, 1) if item.get_closest_marker(name)), default=0)
