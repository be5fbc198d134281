"""Files that others read meanwhile: whole, or as they were."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import waiting
from lab.waiting import scaled
from sebenza_ops.systems.host_scripts import include_dir
from tests.hosts.scripts import SHELLS, run, run_text, text_command
from tests.systems.processes import until

WRITE = 'write_atomically "$1" ${2:+"$2"}'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_content_and_mode(tmp_path: Path, shell: str) -> None:
    target = tmp_path / "with space $HOME"
    for content, mode, expected in [("one\ntwo", "600", 0o600), ("", "", 0o644), ("x" * 300_000, "640", 0o640)]:
        done = run_text(WRITE, target, mode, stdin=content, shell=shell)
        assert done.returncode == 0, done.stderr
        assert target.read_text() == content
        assert target.stat().st_mode & 0o777 == expected
    assert [path.name for path in tmp_path.iterdir()] == [target.name], "temporary files were left"


def test_bytes_arrive_unchanged(tmp_path: Path, shell: str) -> None:
    content = bytes(range(256)) * 10
    assert run_text(WRITE, tmp_path / "file", stdin=content, shell=shell).returncode == 0
    assert (tmp_path / "file").read_bytes() == content


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_writer_that_is_killed_half_way_leaves_the_old_file(tmp_path: Path, how: signal.Signals) -> None:
    target = tmp_path / "map"
    target.write_text("active bk_blue\n")
    process = subprocess.Popen(
        text_command(WRITE, target), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(b"active bk_gr")
    process.stdin.flush()
    until(lambda: any(path.read_bytes() == b"active bk_gr" for path in tmp_path.glob("map.*")), "half is written")
    os.killpg(process.pid, how)
    process.communicate()
    assert target.read_text() == "active bk_blue\n", "readers met half a file"


def test_readers_never_see_a_partial_file(tmp_path: Path) -> None:
    target = tmp_path / "marker"
    contents = [letter * 200_000 for letter in "ab"]
    target.write_text(contents[0])
    loop = 'until [ -e "$4" ]; do for f in "$2" "$3"; do write_atomically "$1" <"$f"; done; done'
    for name, content in zip(("a", "b"), contents, strict=True):
        (tmp_path / name).write_text(content)
    enough = tmp_path / "enough"
    process = subprocess.Popen(text_command(loop, target, tmp_path / "a", tmp_path / "b", enough))
    files = set()

    def seen_many() -> bool:
        # Each writing makes a new file.
        with target.open() as file:
            files.add(os.fstat(file.fileno()).st_ino)
            assert file.read() in contents, "a reader met a file that is neither the old nor the new one"
        reads.append(1)
        return len(files) > 2 and len(reads) > 50

    reads: list[int] = []
    try:
        waiting.until(seen_many, "the reader meets files of several writings", poll_seconds=0)
    finally:
        enough.touch()
        assert process.wait(timeout=scaled(20)) == 0


def test_a_missing_directory_is_named(tmp_path: Path, shell: str) -> None:
    done = run_text(WRITE, tmp_path / "nowhere" / "file", stdin="x", shell=shell)
    assert done.returncode == 1
    assert f"cannot write beside {tmp_path}/nowhere/file" in done.stderr


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(small_disk: Path, shell: str) -> None:
    target = small_disk / "app.env"
    target.write_text("OLD=1\n")
    done = run_text(WRITE, target, stdin="x" * 2_000_000, shell=shell)
    assert done.returncode == 1
    assert f"cannot write {target}" in done.stderr
    assert target.read_text() == "OLD=1\n"
    assert [path.name for path in small_disk.iterdir()] == ["app.env"], "the half written file still fills the disk"


def test_marker_is_one_line_in_a_directory_that_it_makes(tmp_path: Path, state_dir: Path, shell: str) -> None:
    marker = tmp_path / "var" / "deployment" / "current-color"
    done = run("marker_write", state_dir, "production", 1, "dag/run", marker, "green", shell=shell)
    assert done.returncode == 0, done.stderr
    assert marker.read_text() == "green\n"
    assert run("file_read", marker, shell=shell).stdout == "green\n"
    assert run("file_read", tmp_path / "none", shell=shell).returncode == 3


SCRIPTS = sorted(path.stem for path in (include_dir() / "hosts").glob("*.sh"))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("shell_name", sorted(SHELLS))
def test_every_script_is_valid_for_every_shell(name: str, shell_name: str) -> None:
    script = include_dir() / "hosts" / f"{name}.sh"
    done = subprocess.run([*SHELLS[shell_name], "-n", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_fits_into_one_argument(name: str) -> None:
    # execve(2): MAX_ARG_STRLEN is 128 KiB.
    text = (include_dir() / "hosts" / f"{name}.sh").read_text()
    assert len(text) < 64 * 1024
