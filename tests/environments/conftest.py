"""Fixtures of the inventory's tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.environments.inventory_files import SHIPPED, Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    directory = tmp_path / "environments"
    directory.mkdir()
    for file in SHIPPED.glob("*.yaml"):
        shutil.copy(file, directory)
    return Files(directory)
