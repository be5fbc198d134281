"""Fixtures of the host scripts' tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.scripts import SHELLS


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    """Every shell that a host's `sh` may be."""
    name: str = request.param
    return name


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """Where a host keeps its fence; the scripts make it."""
    return tmp_path / "state"


@pytest.fixture(scope="module")
def short_dir() -> Iterator[Path]:
    """A directory with a short path: a Unix socket's has at most 107 bytes (unix(7))."""
    directory = Path(tempfile.mkdtemp(prefix="sebenza-"))
    yield directory
    shutil.rmtree(directory)
