"""Fixtures with real servers for the tests of outside systems."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.systems.sshd import SshServer, ssh_server

SSH_CONNECTION = "systems_test_ssh"


@pytest.fixture(scope="session")
def shared_sshd() -> Iterator[SshServer]:
    with ssh_server() as server:
        yield server


@pytest.fixture
def sshd(shared_sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> SshServer:
    """A running server, and the Airflow connection that leads to it."""
    monkeypatch.setenv(f"AIRFLOW_CONN_{SSH_CONNECTION.upper()}", shared_sshd.connection())
    return shared_sshd
