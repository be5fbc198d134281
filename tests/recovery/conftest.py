"""Fixtures with real servers for the tests of recovery."""

from __future__ import annotations

from pathlib import Path

import pytest

from sebenza_ops.ledger import Ledger
from tests.systems.conftest import shared_sshd, sshd

__all__ = ["shared_sshd", "sshd"]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty one."""
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    found.migrate()
    return found
