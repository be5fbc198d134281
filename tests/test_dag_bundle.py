from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sebenza_ops.dag_bundle import inventory_digest


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "b.yaml").write_text("name: b2\n"),
        lambda folder: (folder / "c.yml").write_text("name: c\n"),
        lambda folder: (folder / "b.yaml").unlink(),
        lambda folder: (folder / "b.yaml").rename(folder / "d.yaml"),
    ],
    ids=["content", "new", "gone", "renamed"],
)
def test_a_change_of_the_inventory_is_seen(tmp_path: Path, change: Callable[[Path], object]) -> None:
    _inventory(tmp_path)
    before = inventory_digest(tmp_path)

    change(tmp_path)

    assert inventory_digest(tmp_path) != before


def test_what_is_written_anew_without_a_change_is_none(tmp_path: Path) -> None:
    _inventory(tmp_path)
    before = inventory_digest(tmp_path)

    os.utime(tmp_path / "a.yaml", (1, 1))
    (tmp_path / ".b.yaml.new").write_text("half")
    (tmp_path / "README.md").write_text("about it")

    assert inventory_digest(tmp_path) == before


def _inventory(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\n")
