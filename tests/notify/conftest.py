"""A ledger in a file, and the mailbox: the services' endpoints, as strict as the real ones."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from lab.mailbox.client import Mailbox
from lab.waiting import scaled
from sebenza_ops.environments.policies import Channels
from sebenza_ops.ledger import Ledger
from sebenza_ops.notify.runs import Run
from tests.ledger.conftest import SettableClock

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class RunningMailbox(Mailbox):
    """A mailbox process of this test session."""

    def __init__(self, directory: Path) -> None:
        self.http_port, self.smtp_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http_port}"
        super().__init__(self.url)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.mailbox", "--listen", "127.0.0.1", "--http-port", str(self.http_port),
             "--smtp-port", str(self.smtp_port), "--state", str(directory)],
            cwd=ROOT,
        )  # fmt: skip

    def await_healthy(self) -> None:
        while not self.healthy():
            assert self._process.poll() is None, "the mailbox ended at start"

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=scaled(20))


@pytest.fixture(scope="session")
def mailbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMailbox]:
    mailbox = RunningMailbox(tmp_path_factory.mktemp("mailbox"))
    try:
        mailbox.await_healthy()
        yield mailbox
    finally:
        mailbox.stop()


@pytest.fixture
def mailbox(mailbox_process: RunningMailbox, monkeypatch: pytest.MonkeyPatch) -> RunningMailbox:
    mailbox_process.clear()
    http = {"conn_type": "http", "host": f"{mailbox_process.url}/webhook/ops"}
    connections = {
        "SEBENZA_SLACK": {"conn_type": "slackwebhook", "password": f"{mailbox_process.url}/services/T0LAB/B0LAB/abc"},
        "SEBENZA_PAGERDUTY": {
            "conn_type": "pagerduty_events",
            "password": "0123456789abcdef0123456789abcdef",
            "host": mailbox_process.url,
        },
        "SEBENZA_SMTP": {
            "conn_type": "smtp",
            "host": "127.0.0.1",
            "port": mailbox_process.smtp_port,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "ops@example.com", "retry_limit": 0},
        },
        "SEBENZA_WEBHOOK": http,
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
    return mailbox_process


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def ledger(tmp_path: Path, clock: SettableClock) -> Ledger:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db", clock)
    ledger.migrate()
    return ledger


@pytest.fixture(autouse=True)
def base_url(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://ops.example/")
    return "https://ops.example"


@pytest.fixture
def channels() -> Channels:
    return TypeAdapter(Channels).validate_python(
        {
            "critical": [
                {"type": "pagerduty", "target": "incidents"},
                {"type": "slack", "target": "#alerts-critical"},
                {"type": "email", "target": "oncall@example.com"},
            ],
            "warning": [{"type": "slack", "target": "#alerts-warning"}],
        }
    )


@pytest.fixture
def run() -> Run:
    return Run(
        dag_id="deploy_blue_green.production",
        run_id="manual__2026-03-01T02:00:00+00:00",
        clear_number=0,
        requested_by="thandi",
        conf={"version": "v1.1.0"},
    )
