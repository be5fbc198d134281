from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

from lab import paths
from lab.waiting import scaled
from tests.dags.parse_probe import ParseReport

DAGS_FOLDER = paths.CHECKOUT / "dags"
INVENTORY = paths.CHECKOUT / "include" / "environments"


def probe(folder: Path, environments: Path, home: Path) -> ParseReport:
    """Parse a folder of DAG files in a fresh process, with an inventory."""
    environment = os.environ | {
        "SEBENZA_ENVIRONMENTS": str(environments),
        "AIRFLOW_HOME": str(home),
        # Part of what Airflow hashes: the same for every home.
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "PYTHONPATH": f"{paths.CHECKOUT / 'plugins'}:{paths.CHECKOUT}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.dags.parse_probe", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=scaled(100),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result.pop("total_seconds")
    return ParseReport(**result)


@pytest.fixture(scope="session")
def dags() -> dict[str, Any]:
    """Every DAG of the project, made from the inventory in the tree."""
    previous = os.environ.get("SEBENZA_ENVIRONMENTS")
    os.environ["SEBENZA_ENVIRONMENTS"] = str(INVENTORY)
    try:
        bag = DagBag(dag_folder=DAGS_FOLDER)
    finally:
        if previous is None:
            del os.environ["SEBENZA_ENVIRONMENTS"]
        else:
            os.environ["SEBENZA_ENVIRONMENTS"] = previous
    assert not bag.import_errors
    return dict(bag.dags)


@pytest.fixture(scope="session")
def parse_report(tmp_path_factory: pytest.TempPathFactory) -> ParseReport:
    """What a parse of the project's DAG files did."""
    return probe(DAGS_FOLDER, INVENTORY, tmp_path_factory.mktemp("airflow-home"))
