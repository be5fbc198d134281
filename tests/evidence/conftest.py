"""Fixtures of the evidence's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from sebenza_ops.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    return ledger
