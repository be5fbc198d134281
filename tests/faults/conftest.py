from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lab.airflow.stack import LocalAirflow
from lab.chaos.stage import Stage


@pytest.fixture(scope="module")
def stage(estate: Any, airflow: LocalAirflow) -> Iterator[Stage]:
    """The lab and Airflow, as scenarios use them; in order again when the tests have ended."""
    found = Stage(airflow, print)
    yield found
    found.prepare()
    found.close()
