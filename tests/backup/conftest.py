"""Fixtures of the backups' tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sebenza_ops.ledger import Ledger
from tests.backup.repository_server import RepositoryServer
from tests.systems.conftest import shared_sshd, sshd

__all__ = ["server", "shared_sshd", "sshd"]


@pytest.fixture(scope="module")
def server() -> Iterator[RepositoryServer]:
    """A database host with an encrypted repository, and 5,000 orders."""
    server = RepositoryServer()
    server.start()
    try:
        with server.connect() as connection:
            connection.execute(
                "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 5000) n"
            )
        yield server
    finally:
        server.stop()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty one."""
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    found.migrate()
    return found
