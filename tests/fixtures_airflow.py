"""Fixtures of tests that use Airflow, and a home of its own for the Airflow that is imported by tests.

Importing Airflow writes into AIRFLOW_HOME, so it is set before any test module is imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow

_HOME = tempfile.mkdtemp(prefix="sebenza-tests-airflow-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONFIG"))]:
    del os.environ[_name]
os.environ["AIRFLOW_HOME"] = _HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="session")
def airflow() -> Iterator[LocalAirflow]:
    """The lab's Airflow: brought up when it is down, and left as it was found."""
    local = LocalAirflow(lab_settings())
    was_running = local.supervision.process() is not None
    local.up()
    yield local
    if not was_running:
        # Nobody goes on with it: its components need no time to end well.
        local.supervision.kill()
