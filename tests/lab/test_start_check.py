"""What stops a start is said before anything is installed, all of it at once; a checkout works anywhere."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths, tools
from lab.addresses import HTTPS_PORT
from lab.machine import listener, port_problem

# No lab of a test has this network.
_NETWORK = "127.81.0"
_NOBODY = 65534
_NEEDED = ("scripts", "lab/*.py", "lab/node/package-lock.json", "requirements.txt", "requirements-dev.txt")


def _check(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What Debian's own Python says, which has none of the project's packages."""
    return subprocess.run(
        ["/usr/bin/python3", "-m", "lab.start_check"],
        cwd=checkout,
        env={"PATH": "/usr/bin:/bin", "SEBENZA_LAB_NET": _NETWORK, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _set_up(checkout: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The set-up for a target that starts the lab."""
    return subprocess.run(
        [*command, "scripts/setup.sh", "lab"],
        cwd=checkout,
        env={**os.environ, "SEBENZA_LAB_NET": _NETWORK, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield int(other.getsockname()[1])


def _copy_checkout(to: Path) -> Path:
    for pattern in _NEEDED:
        for source in paths.CHECKOUT.glob(pattern):
            target = to / source.relative_to(paths.CHECKOUT)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, target)
    return to


@pytest.fixture
def small_checkout(tmp_path: Path) -> Iterator[Path]:
    """A checkout that nothing was set up in, on a file system with 64 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path], check=True)
    try:
        yield _copy_checkout(tmp_path / "checkout")
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_everything_is_said_at_once_and_nothing_is_installed(small_checkout: Path, taken_port: int) -> None:
    done = _set_up(
        small_checkout, SEBENZA_AIRFLOW_PORT=str(taken_port), SEBENZA_LAB_DIR=str(small_checkout / "closed/lab")
    )
    assert done.returncode == 1
    assert "can't start, nothing was installed or changed" in done.stderr
    for told in (
        f"MiB free in {small_checkout}, 6144 MiB needed for the installation",
        f"MiB free in {small_checkout}/closed/lab, 2048 MiB needed",
        f"127.0.0.1:{taken_port}, which the lab's Airflow needs, is taken (Address already in use) by ",
        f"(process {os.getpid()}): stop that program, or choose another port with SEBENZA_AIRFLOW_PORT",
    ):
        assert told in done.stderr
    assert not (small_checkout / ".venv").exists()
    assert not (small_checkout / "lab/node/node_modules").exists()


def test_who_is_not_root_is_told_first(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    done = _set_up(_copy_checkout(tmp_path / "checkout"), "setpriv", f"--reuid={_NOBODY}", "--clear-groups")
    assert done.returncode == 1
    assert (
        "not root: the lab's sshd, PostgreSQL and Redis run under accounts of their own; use sudo make" in done.stderr
    )
    assert f"{tmp_path}/checkout can't be written" in done.stderr


def test_a_virtual_environment_that_was_moved_is_seen(tmp_path: Path) -> None:
    checkout = _copy_checkout(tmp_path)
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").symlink_to("/usr/bin/python3")
    code = f"eval \"$(sed -n '/^was_moved()/,/^}}/p' {checkout}/scripts/setup.sh)\"; was_moved"

    def is_moved(made_in: Path) -> bool:
        (checkout / ".venv/bin/airflow").write_text(f"#!{made_in}/.venv/bin/python\n")
        return subprocess.run(["bash", "-c", code], cwd=checkout, check=False).returncode == 0

    assert not is_moved(checkout)
    assert is_moved(tmp_path / "elsewhere")
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/python").symlink_to("/nowhere/python3")
    assert is_moved(checkout)


def test_a_taken_port_of_the_lab_is_told_with_its_holder() -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        assert "is taken" in str(port_problem(f"{_NETWORK}.11", port))
        holder = listener(f"{_NETWORK}.11", port)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert port_problem(f"{_NETWORK}.11", port) is None
    with socket.socket() as other:
        other.bind((f"{_NETWORK}.11", HTTPS_PORT))
        other.listen()
        (told,) = _check(paths.CHECKOUT).stdout.splitlines()[:1]
    assert told.startswith(f"{_NETWORK}.11:{HTTPS_PORT}, which haproxy on lb1 needs, is taken")
    assert f"(process {os.getpid()}): stop that program, or move the lab with SEBENZA_LAB_NET (now {_NETWORK})" in told


def test_an_address_that_this_machine_has_not() -> None:
    assert port_problem("192.0.2.1", 8443) == "is no address of this machine"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SEBENZA_LAB_NET", "127.77", "expected the first three numbers of a network"),
        ("SEBENZA_LAB_NET", "127.77.300", "expected the first three numbers of a network"),
        ("SEBENZA_AIRFLOW_PORT", "http", "expected a port from 1024 to 65535"),
        ("SEBENZA_AIRFLOW_PORT", "80", "expected a port from 1024 to 65535"),
        ("SEBENZA_EXTRA_DAGS", "/nonexistent/dags", "there is no such directory"),
        ("SEBENZA_LAB_DIR", "/srv/a lab", "take for separators"),
        ("SEBENZA_LAB_DIR", "/srv/50%:lab", "take for separators"),
    ],
)
def test_a_setting_that_makes_no_sense(name: str, value: str, told: str) -> None:
    done = _check(paths.CHECKOUT, **{name: value})
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if told in line]
    assert value in line


def test_an_empty_setting_is_none() -> None:
    told = _check(paths.CHECKOUT, SEBENZA_AIRFLOW_PORT="", SEBENZA_EXTRA_DAGS="", SEBENZA_LAB_DIR="").stdout
    assert "expected" not in told
    assert "no such directory" not in told


def test_a_checkout_that_accounts_can_not_enter_has_its_lab_elsewhere(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    checkout, outside = tmp_path / "checkout", tmp_path / "outside"
    checkout.mkdir(mode=0o755)
    assert paths.lab_directory(checkout, None, outside) == checkout / ".lab"
    checkout.chmod(0o700)
    assert paths.closed_directory(checkout / "lab") == checkout
    placed = paths.lab_directory(checkout, None, outside)
    assert placed.parent == outside
    assert paths.lab_directory(tmp_path / "other", None, outside) == tmp_path / "other/.lab"
    placed.mkdir(parents=True)
    checkout.chmod(0o755)
    # What is there must not be lost from sight.
    assert paths.lab_directory(checkout, None, outside) == placed
    assert paths.lab_directory(checkout, str(tmp_path / "chosen"), outside) == tmp_path / "chosen"


def test_copies_can_be_run_by_all_and_follow_what_is_installed(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp") and directory != Path("/tmp"):
            directory.chmod(0o755)
    source, target = tmp_path / "closed", tmp_path / "open/tool"
    (source / "lib").mkdir(parents=True)
    (source / "run").write_text('#!/bin/sh\ncat "$(dirname "$0")/lib/text"\n')
    (source / "lib/text").write_text("first")
    for path, mode in ((source / "run", 0o700), (source / "lib/text", 0o600), (source / "lib", 0o700), (source, 0o700)):
        path.chmod(mode)

    def as_nobody() -> str:
        argv = ["setpriv", f"--reuid={_NOBODY}", "--clear-groups", str(target / "run")]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    tools.copy(source, target, "1")
    assert as_nobody() == "first"
    (source / "lib/text").write_text("second")
    tools.copy(source, target, "1")
    assert as_nobody() == "first"
    tools.copy(source, target, "2")
    assert as_nobody() == "second"
    assert sorted(each.name for each in target.parent.iterdir()) == [".tool.stamp", "tool"]
