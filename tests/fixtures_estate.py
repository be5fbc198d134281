"""The lab as a fixture: every test that needs real servers shares one estate.

`estate` brings the lab up when it is down, and leaves it as it found it. `faults` breaks things and
mends them at the end of the test.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from lab import addresses, application_hosts, paths, remote
from lab import estate as lab_estate
from lab import faults as lab_faults
from lab.hosts import ENVIRONMENTS, has_secondary_site
from lab.load.capacity import capacity_for
from lab.secondary_site import turn_on
from lab.waiting import LabError

# Of all tests' loads.
MAXIMUM_PER_SECOND = 40


@dataclass(frozen=True)
class Estate:
    """The lab that is up."""

    directory: Path = paths.LAB_DIR
    environments_dir: Path = paths.ENVIRONMENTS_DIR
    connections_file: Path = paths.CONNECTIONS_FILE
    ca_file: Path = paths.CA_FILE

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What .lab/lab.json says: hosts, URLs, keys."""
        found: dict[str, Any] = json.loads(paths.LAB_FILE.read_text())
        return found

    @cached_property
    def connections(self) -> dict[str, dict[str, Any]]:
        """The lab's Airflow connections by id."""
        found: dict[str, dict[str, Any]] = yaml.safe_load(self.connections_file.read_text())
        return found

    def address(self, host: str) -> str:
        """A host's address."""
        return addresses.address(host)

    def root(self, host: str) -> Path:
        """A host's file tree."""
        return paths.host_root(host)

    def shell(
        self, host: str, argv: Sequence[str], *, stdin: str = "", timeout_seconds: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host over SSH as the login user."""
        return remote.shell(host, argv, stdin=stdin, timeout_seconds=timeout_seconds)

    def live_colors(self, environment: str) -> dict[str, str | None]:
        """The color that each load balancer of an environment sends traffic to."""
        return {host: application_hosts.live_color(host) for host in ENVIRONMENTS[environment].load_balancers}

    def reset(self, *environments: str) -> None:
        """Put environments (default: all) back to v1.0.0 in blue."""
        lab_estate.reset(environments or tuple(ENVIRONMENTS), lab_estate.Progress())


@pytest.fixture(scope="session")
def estate() -> Iterator[Estate]:
    """The lab, up and healthy."""
    was_up = lab_estate.is_up()
    progress = lab_estate.Progress()
    try:
        lab_estate.up(progress)
    except LabError as error:
        pytest.fail(f"the lab does not come up: {error}", pytrace=False)
    yield Estate()
    if not was_up:
        lab_estate.down(progress)


@pytest.fixture(scope="session")
def rate_for(estate: Estate) -> Callable[[float], float]:
    """Requests a second that a test may send to production: a maximum, or half of what the estate serves here.

    Measured once, before the test that asks for it first breaks anything, up to the most that a test sends.
    """
    try:
        capacity = capacity_for(MAXIMUM_PER_SECOND)
    except LabError as error:
        pytest.fail(f"what the estate serves could not be measured: {error}", pytrace=False)
    return capacity.rate


@pytest.fixture(scope="module")
def secondary_site(estate: Estate) -> Iterator[Estate]:
    """The lab with its secondary site and DNS; without them again afterwards, unless it had them before."""
    had_it = has_secondary_site()
    turn_on()
    lab_estate.up(lab_estate.Progress())
    # Read anew: the inventory and the connections have more now.
    yield Estate()
    if not had_it:
        lab_estate.down_secondary_site(lab_estate.Progress())


@pytest.fixture
def faults(estate: Estate) -> Iterator[ModuleType]:
    """`lab.faults`; everything that the test breaks is mended, and healthy again, when it ends."""
    yield lab_faults
    if lab_faults.active():
        lab_faults.mend()
