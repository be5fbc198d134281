"""All scenarios, and the few that every test run plays."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

from lab.chaos.scenario import Scenario
from lab.chaos.scenarios import (
    backup_kills,
    backup_storage,
    balancers,
    clocks,
    data,
    gates,
    hands,
    hosts,
    kills,
    leases,
    points,
    releases,
    restores,
    rollbacks,
    rolling,
    switches,
    unwell,
)

GROUPS: Final[dict[str, tuple[Scenario, ...]]] = {
    "Workers and tasks that are killed": kills.SCENARIOS,
    "People in the Airflow UI": hands.SCENARIOS,
    "Load balancers": balancers.SCENARIOS,
    "Markers, map files and application hosts": hosts.SCENARIOS,
    "Two changes at once": leases.SCENARIOS,
    "Releases": releases.SCENARIOS,
    "Users and metrics": data.SCENARIOS,
    "An environment that is unwell before the change": unwell.SCENARIOS,
    "Standard deployments": rolling.SCENARIOS,
    "Gates, approvals and rollbacks": (*rollbacks.SCENARIOS, *gates.SCENARIOS),
    "The database's primary": switches.SCENARIOS,
    "Backups that are killed": backup_kills.SCENARIOS,
    "Backups, storage and disks": backup_storage.SCENARIOS,
    "Verifications and restores": restores.SCENARIOS,
    "Restores to a point in time": points.SCENARIOS,
    "Clocks": clocks.SCENARIOS,
}
SCENARIOS: Final = tuple(scenario for group in GROUPS.values() for scenario in group)
# For `make test`: a bad release, and a standard deployment that goes back. A worker that is killed inside the bake is
# replaced in tests/installation.
SELECTED: Final = (
    "release-fails-late",
    "rolling-second-host-fails",
)


def chosen(patterns: list[str]) -> list[Scenario]:
    """The scenarios whose names match any of the patterns (shell style), in the patterns' order; all without one.

    Raises KeyError for a pattern that matches nothing.
    """
    found: dict[str, Scenario] = {}
    for pattern in patterns or ["*"]:
        matching = {each.name: each for each in SCENARIOS if fnmatchcase(each.name, pattern)}
        if not matching:
            raise KeyError(f"no scenario matches {pattern!r}; `python -m lab.chaos --list` shows all")
        found |= {name: each for name, each in matching.items() if name not in found}
    return list(found.values())
