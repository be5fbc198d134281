"""Copies of the programs that the lab's accounts run and that the set-up installs in the checkout.

PM2, rclone and supervisor's command line lie in the checkout, which may be where these accounts can't go (`/root`).
"""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Final

import supervisor

from lab import paths

_EVERYBODY_READS: Final = 0o644
_EVERYBODY_RUNS: Final = 0o755
# What npm writes last; it has the exact version of every package.
_INSTALLED = ".package-lock.json"


def copy_tools() -> None:
    """Bring the copies up to what is installed; quick when they are."""
    rclone = paths.program("rclone")
    copy(paths.NODE_MODULES, paths.TOOLS_DIR / "node_modules", (paths.NODE_MODULES / _INSTALLED).read_text())
    copy(Path(supervisor.__path__[0]), paths.SUPERVISOR_DIR / "supervisor", version("supervisor"))
    copy(rclone, paths.RCLONE, f"{rclone.stat().st_size} {rclone.stat().st_mtime_ns}")


def copy(source: Path, target: Path, stamp: str) -> None:
    """Copy a file or tree unless it was copied with this stamp; readers see the old one or the new one, whole."""
    stamp_file = target.with_name(f".{target.name}.stamp")
    if target.exists() and stamp_file.exists() and stamp_file.read_text() == stamp:
        return
    fresh, former = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, former):
        _remove(leftover)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, fresh, symlinks=True)
    else:
        shutil.copy2(source, fresh)
    _open(fresh)
    if target.exists():
        target.rename(former)
    fresh.rename(target)
    _remove(former)
    stamp_file.write_text(stamp)


def _open(place: Path) -> None:
    """Let every account read what is there, and run what its owner may run: a umask may have kept them out."""
    for directory, _, names in os.walk(place):
        Path(directory).chmod(_EVERYBODY_RUNS)
        for name in names:
            _open_file(Path(directory, name))
    if place.is_file():
        _open_file(place)


def _open_file(file: Path) -> None:
    file.chmod(_EVERYBODY_RUNS if file.stat().st_mode & 0o100 else _EVERYBODY_READS)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
