"""What the lab refuses is one line that says what to do."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lab import paths
from lab.waiting import scaled
from tests.fixtures_estate import Estate

# No host of the lab that tests share has these addresses.
_OTHER_NETWORK = "127.79.0"

_CHECK_PORTS = """
from lab import preflight
from lab.waiting import LabError
try:
    preflight.check_ports()
except LabError as error:
    raise SystemExit(str(error))
"""


def _python(
    *arguments: str, lab_dir: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=paths.CHECKOUT,
        env={**os.environ, "SEBENZA_LAB_DIR": str(lab_dir), "SEBENZA_LAB_NET": _OTHER_NETWORK, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.fixture
def open_dir(tmp_path: Path) -> Path:
    for directory in (tmp_path, *tmp_path.parents):
        if directory != Path("/tmp") and directory.is_relative_to("/tmp"):
            directory.chmod(0o755)
    return tmp_path / "lab"


def test_a_directory_that_was_made_for_another_network(open_dir: Path) -> None:
    open_dir.mkdir()
    (open_dir / "lab.json").write_text('{"hosts": {"lb1": "127.80.0.11"}}')
    told = _one_line(_python("-m", "lab", "up", lab_dir=open_dir))
    assert f"was made for the network 127.80.0, and SEBENZA_LAB_NET says {_OTHER_NETWORK}" in told


def test_a_second_lab(estate: Estate, open_dir: Path) -> None:
    """On the same network; one that was moved to another network has addresses and links of its own."""
    told = _one_line(_python("-m", "lab", "up", lab_dir=open_dir, environment={"SEBENZA_LAB_NET": "127.77.0"}))
    assert f"another lab runs from {estate.directory}" in told
    assert estate.shell("lb1", ["true"]).returncode == 0


def test_ending_a_second_lab_leaves_the_first_alone(estate: Estate, open_dir: Path) -> None:
    assert _python("-m", "lab", "down", lab_dir=open_dir, environment={"SEBENZA_LAB_NET": "127.77.0"}).returncode == 0
    assert estate.shell("lb1", ["true"]).returncode == 0


def test_a_directory_that_services_can_not_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    told = _one_line(_python("-m", "lab", "up", lab_dir=closed / "lab"))
    assert "can't enter" in told
    assert "which SEBENZA_LAB_DIR leads through: unset it, or choose" in told


def test_a_taken_port(open_dir: Path) -> None:
    with socket.socket() as other:
        other.bind((f"{_OTHER_NETWORK}.11", 8443))
        other.listen()
        told = _one_line(_python("-c", _CHECK_PORTS, lab_dir=open_dir))
    assert f"{_OTHER_NETWORK}.11:8443, which haproxy on lb1 needs, is taken (Address already in use) by" in told
    assert "SEBENZA_LAB_NET" in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["shell", "nohost"], "nohost"),
        (["logs", "app1", "redis"], "redis"),
        (["break", "kill", "app1", "redis"], "redis"),
        (["break", "cut", "app1", "everything"], "everything"),
        (["mend", "f999"], "f999"),
        (["reset", "prod"], "prod"),
    ],
)
def test_unknown_names(open_dir: Path, arguments: list[str], named: str) -> None:
    told = _one_line(_python("-m", "lab", *arguments, lab_dir=open_dir))
    assert named in told
    assert "Traceback" not in told
