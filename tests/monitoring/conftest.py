"""The lab's monitoring configuration, rendered for a network of its own so that a running lab is not met."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import addresses
from lab.monitoring import render
from lab.secrets import LabSecrets


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> str:
    """A loopback network that only this test process uses."""
    chosen = f"127.{90 + os.getpid() // 250 % 100}.{os.getpid() % 250}"
    monkeypatch.setattr(addresses, "NETWORK", chosen)
    return chosen


@pytest.fixture
def etc(network: str, tmp_path: Path) -> Path:
    """The monitoring host's rendered /etc."""
    render(tmp_path, LabSecrets())
    return tmp_path / "hosts" / "monitoring" / "etc"
