"""Fixtures of the console's tests: Airflow's own API server with the plugin, a ledger, object storage and users."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lab.waiting import accepts_connections, scaled, until
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence.store import store_report
from sebenza_ops.ledger import Ledger
from sebenza_ops.systems.object_store import ObjectStorage
from tests.console.samples import DAG_ID, FINISHED_RUN, fill
from tests.evidence.conftest import ledger

__all__ = ["STORED", "Server", "ledger", "server", "storage"]

ROOT = Path(__file__).resolve().parents[2]
USERS = {"thandi": "admin", "lerato": "viewer", "stranger": ""}
PASSWORD = "only-for-this-test"
START_TIMEOUT_SECONDS = 90
STORED = "<!doctype html><html><head></head><body><main id='report'>Stored, über alles</main></body></html>"
DAGS = """
from airflow.sdk import DAG

for dag_id in ("deploy_blue_green.production", "deploy_blue_green.staging"):
    with DAG(dag_id, schedule=None) as dag:
        globals()[dag_id] = dag
"""


@dataclass(frozen=True)
class Server:
    """A running API server."""

    url: str
    ledger: Ledger

    def client(self, user: str | None = None, html: bool = False) -> httpx.Client:
        """A client, logged in as a user."""
        headers = {"Accept": "text/html"} if html else {}
        if user is not None:
            headers["Authorization"] = f"Bearer {self.token(user)}"
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, follow_redirects=True)

    def token(self, user: str) -> str:
        """A token of a user."""
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": PASSWORD}, timeout=60)
        answer.raise_for_status()
        token: str = answer.json()["access_token"]
        return token


@pytest.fixture(scope="session")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3-compatible server with one stored report; yields the Airflow connection to it, as JSON."""
    buckets = tmp_path_factory.mktemp("storage")
    environment = load_inventory().environment("production")
    (buckets / environment.object_store.bucket).mkdir()
    port = _free_port()
    rclone = Path(sys.executable).with_name("rclone")
    arguments = ["serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", "key-id,only-for-this-test", str(buckets)]
    process = subprocess.Popen([rclone, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    extra = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "region_name": "us-east-1",
        "config_kwargs": {"request_checksum_calculation": "when_required", "s3": {"addressing_style": "path"}},
    }
    connection = json.dumps({"conn_type": "aws", "login": "key-id", "password": "only-for-this-test", "extra": extra})
    try:
        _await_port(port, process)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AIRFLOW_CONN_SEBENZA_OBJECT_STORE", connection)
            store_report(STORED, environment, DAG_ID, FINISHED_RUN, ObjectStorage(environment.object_store))
        yield connection
    finally:
        process.terminate()
        process.wait(timeout=scaled(30))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, storage: str) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("airflow")
    port = _free_port()
    environment = _environment(home, port, storage)
    kept = Ledger.open(f"sqlite:///{home}/ops.db")
    kept.migrate()
    fill(kept)
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        subprocess.run([*_airflow(), *command], env=environment, check=True, capture_output=True, timeout=scaled(300))
    log = (home / "server.log").open("wb")
    arguments = [*_airflow(), "api-server", "--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    try:
        _await_answer(f"http://127.0.0.1:{port}/api/v2/version", process, home / "server.log")
        yield Server(f"http://127.0.0.1:{port}", kept)
    finally:
        process.terminate()
        process.wait(timeout=scaled(30))
        log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    def listens() -> bool:
        assert process.poll() is None, "the object storage has ended at its start"
        return accepts_connections("127.0.0.1", port)

    until(listens, f"the object storage listens on port {port}", START_TIMEOUT_SECONDS, error=AssertionError)


def _airflow() -> list[str]:
    return [str(Path(sys.executable).with_name("airflow"))]


def _environment(home: Path, port: int, storage: str) -> dict[str, str]:
    (home / "dags").mkdir()
    (home / "dags" / "deployments.py").write_text(DAGS)
    (home / "passwords.json").write_text(json.dumps(dict.fromkeys(USERS, PASSWORD)))
    connection = {"conn_type": "sqlite", "host": f"{home}/ops.db"}
    users = ",".join(f"{name}:{role}" for name, role in USERS.items())
    return {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": users,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
        "AIRFLOW__API_AUTH__JWT_SECRET": "a secret that is only used by this test, and long enough for SHA-512....",
        "AIRFLOW_CONN_OPS_LEDGER": json.dumps(connection),
        "AIRFLOW_CONN_SEBENZA_OBJECT_STORE": storage,
        "SEBENZA_ENVIRONMENTS": str(ROOT / "include" / "environments"),
    }


def _await_answer(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, f"Airflow's API server has ended at its start:\n{log.read_text()[-3000:]}"
        try:
            return httpx.get(url, timeout=5).is_success
        except httpx.HTTPError:
            return False

    until(
        answers,
        f"Airflow's API server answers at {url} (log: {log})",
        START_TIMEOUT_SECONDS,
        # What it logs is its progress.
        progress=lambda: f"{log.stat().st_size} bytes of log",
        poll_seconds=0.2,
        error=AssertionError,
    )
