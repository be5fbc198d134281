"""The scripts in include/hosts: found, joined with their library, and handed over as one text."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def include_dir() -> Path:
    """The `include` directory: SEBENZA_INCLUDE, or the one beside `plugins`."""
    configured = os.environ.get("SEBENZA_INCLUDE")
    return Path(configured) if configured else Path(__file__).resolve().parents[3] / "include"


@cache
def script_text(name: str) -> str:
    """The text of include/hosts/<name>.sh with lib.sh before it. Raises FileNotFoundError for an unknown name."""
    hosts = include_dir() / "hosts"
    return (hosts / "lib.sh").read_text() + (hosts / f"{name}.sh").read_text()
