from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import inventory, paths
from lab.airflow.celery import CelerySettings, Queue
from lab.airflow.settings import AirflowSettings, write_private
from lab.airflow.stack import LocalAirflow, Report
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.queues import CORE, LEDGER_CONN_ID, connections_by_place
from sebenza_ops.ledger import Ledger
from tests.installation.redis_server import redis_broker
from tests.postgres_server import PostgresServer
from tests.systems.processes import LOOPBACK, free_port

QUEUES = ("default", "staging")


@dataclass(frozen=True)
class Installation:
    """What docker-compose.yaml starts, without containers: Celery, PostgreSQL for metadata and ledger, Redis."""

    airflow: LocalAirflow
    ledger: Ledger
    report: Report


@pytest.fixture(scope="module")
def installation(estate: Any) -> Iterator[Installation]:
    """The installation, up beside the lab; gone afterwards, and staging as the lab starts out."""
    estate.reset("staging")
    database_port = free_port()
    database = PostgresServer(database_port)
    database.start()
    try:
        with redis_broker() as broker, tempfile.TemporaryDirectory(prefix="sebenza-installation-") as directory:
            database.create_database("airflow")
            ledger = Ledger.open(database.create_database("ledger"))
            ledger.migrate()
            files = write_connections(Path(directory), database_port)
            airflow = LocalAirflow(
                AirflowSettings(
                    home=Path(directory) / "airflow",
                    port=free_port(),
                    dags_folders=(paths.CHECKOUT / "dags", Path(__file__).parent / "dags"),
                    connections_file=files[CORE],
                    celery=CelerySettings(
                        database_url=f"postgresql+psycopg2://postgres@{LOOPBACK}:{database_port}/airflow",
                        broker_url=broker,
                        queues=tuple(Queue(name, files[name]) for name in QUEUES),
                    ),
                )
            )
            try:
                yield Installation(airflow, ledger, airflow.up())
            finally:
                airflow.supervision.kill()
                estate.reset("staging")
    finally:
        database.stop()


def write_connections(directory: Path, ledger_port: int) -> dict[str, Path]:
    """A file of the lab's connections for each place, with those that it needs and no others."""
    known = inventory.connections()
    known[LEDGER_CONN_ID] = {
        "conn_type": "postgres",
        "host": LOOPBACK,
        "port": ledger_port,
        "login": "postgres",
        "schema": "ledger",
    }
    files = {}
    for place, ids in connections_by_place(load_inventory(paths.ENVIRONMENTS_DIR)).items():
        files[place] = directory / f"{place}.yaml"
        write_private(files[place], yaml.safe_dump({name: known[name] for name in ids}))
    return files
