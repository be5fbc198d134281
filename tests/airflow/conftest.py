from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths
from lab.airflow.client import AirflowClient
from lab.airflow.settings import ADDRESS, AirflowSettings
from lab.airflow.stack import LocalAirflow, Report


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def own_airflow() -> Iterator[tuple[LocalAirflow, Report]]:
    """An Airflow only for these tests, which kill its parts; with the project's DAGs and the samples.

    It ends with them: two cores are not enough for two.
    """
    with tempfile.TemporaryDirectory(prefix="sebenza-airflow-") as directory:
        settings = AirflowSettings(
            home=Path(directory) / "airflow",
            port=free_port(),
            dags_folders=(paths.CHECKOUT / "dags", Path(__file__).parent / "dags"),
            environments_directory=Path(directory) / "environments",
            connections_file=Path(directory) / "connections.yaml",
        )
        settings.home.mkdir(parents=True)
        # Theirs, so that it can be changed.
        shutil.copytree(paths.CHECKOUT / "include" / "environments", settings.environments_directory)
        settings.connections_file.write_text("{}\n")
        airflow = LocalAirflow(settings)
        try:
            yield airflow, airflow.up()
        finally:
            airflow.supervision.kill()


@pytest.fixture
def local(own_airflow: tuple[LocalAirflow, Report]) -> LocalAirflow:
    """The tests' own Airflow, running."""
    return own_airflow[0]


@pytest.fixture
def operator(local: LocalAirflow) -> Iterator[AirflowClient]:
    """A client that acts as the operator."""
    with local.client("operator") as client:
        yield client
