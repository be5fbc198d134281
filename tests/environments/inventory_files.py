"""Inventory files to edit: copies of the ones that the project ships."""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[2] / "include" / "environments"


class Files:
    """A directory with copies of the shipped files, and one way to change them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def edit(self, name: str, old: str, new: str) -> Path:
        """Replace the first `old` in a file; the test is wrong when it isn't there."""
        file = self.path(name)
        text = file.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}.yaml"
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        return file
