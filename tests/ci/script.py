"""include/ci/deploy.py, as a module and as the program that a pipeline runs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab import paths

CI_DIRECTORY = paths.CHECKOUT / "include" / "ci"
SCRIPT = CI_DIRECTORY / "deploy.py"


def load() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("sebenza_ci_deploy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(arguments: list[str], variables: Mapping[str, str], directory: Path | None = None) -> subprocess.Popen[str]:
    """Start it with these variables and nothing of the tests' own environment."""
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        cwd=directory or "/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], variables: Mapping[str, str], timeout: float = 180) -> tuple[int, str]:
    """Its exit code and what it has printed, which is none of its secrets."""
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it did not end; it had printed:\n{process.communicate()[0]}") from None
    for name, value in variables.items():
        is_secret = any(word in name for word in ("PASSWORD", "KEY", "SECRET")) and not name.endswith("KEY_ID")
        if is_secret and value:
            assert value not in output, f"{name} was printed"
    return process.returncode, output


def run(
    arguments: list[str], variables: Mapping[str, str], directory: Path | None = None, timeout: float = 180
) -> tuple[int, str]:
    """Run it to its end."""
    return ended(start(arguments, variables, directory), variables, timeout)
