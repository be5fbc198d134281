"""The fence on every host: a later holder is never overtaken by an earlier one."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from lab.waiting import scaled
from tests.hosts.scripts import SHELLS, library, run, run_text, text_command
from tests.systems.processes import command_line, descendants, until

# Enters the fence, says so, stays until its standard input ends, says that it leaves.
STAY = 'fence "$1" "$2" "$3" "$4"; echo "in $3" >>"$5"; cat >/dev/null; echo "out $3" >>"$5"'


def mark(state: Path, token: object, marker: Path, shell: str = "dash") -> subprocess.CompletedProcess[str]:
    """Write a marker behind the fence."""
    return run("marker_write", state, "production", token, "dag/run", marker, f"by {token}", shell=shell)


def test_a_first_token_is_remembered_with_its_holder_and_time(state_dir: Path, tmp_path: Path, shell: str) -> None:
    done = mark(state_dir, 7, tmp_path / "marker", shell)
    assert done.returncode == 0, done.stderr
    token, holder, since = (state_dir / "fence-production").read_text().split()
    assert (token, holder) == ("7", "dag/run")
    assert since.endswith("Z"), "the moment must be UTC"


def test_a_lower_token_is_refused_with_77_and_changes_nothing(state_dir: Path, tmp_path: Path, shell: str) -> None:
    marker = tmp_path / "marker"
    assert mark(state_dir, 8, marker, shell).returncode == 0
    before = (state_dir / "fence-production").read_text()
    done = mark(state_dir, 7, marker, shell)
    assert done.returncode == 77, f"a zombie's token was let through: {done}"
    assert "token 7 is lower than 8" in done.stderr
    assert marker.read_text() == "by 8\n"
    assert (state_dir / "fence-production").read_text() == before


def test_an_equal_token_passes_and_does_not_touch_the_fence(state_dir: Path, tmp_path: Path, shell: str) -> None:
    mark(state_dir, 8, tmp_path / "marker", shell)
    inode = (state_dir / "fence-production").stat().st_ino
    assert mark(state_dir, 8, tmp_path / "other", shell).returncode == 0
    assert (state_dir / "fence-production").stat().st_ino == inode, "the same holder rewrote the fence"


def test_an_equal_token_of_another_run_is_refused(state_dir: Path, tmp_path: Path, shell: str) -> None:
    """With the ledger down, two runs may count on from the same token; only one of them holds the host."""
    mark(state_dir, 8, tmp_path / "marker", shell)
    done = run("marker_write", state_dir, "production", 8, "dag/other", tmp_path / "marker", "x", shell=shell)
    assert done.returncode == 77, f"two runs hold the host under one token: {done}"
    assert "token 8 is of dag/run" in done.stderr
    assert (tmp_path / "marker").read_text() == "by 8\n"


def test_a_higher_token_is_remembered(state_dir: Path, tmp_path: Path, shell: str) -> None:
    for token in (8, 9, 10):
        assert mark(state_dir, token, tmp_path / "marker", shell).returncode == 0
    assert mark(state_dir, 9, tmp_path / "marker", shell).returncode == 77, "9 was compared as text with 10"


def test_environments_have_fences_of_their_own(state_dir: Path) -> None:
    assert run("fence_raise", state_dir, "staging", 50, "a").returncode == 0
    assert run("fence_raise", state_dir, "production", 3, "b").returncode == 0, "staging's token fenced production off"


@pytest.mark.parametrize(
    "garbage", ["", "\n", "garbage", "5x run", "-5 run", "5\n6", " 5", "9" * 19 + " run", "1e3", "0x10", "\0\0\0"]
)
def test_an_unreadable_fence_fails_closed(garbage: str, state_dir: Path, tmp_path: Path, shell: str) -> None:
    state_dir.mkdir()
    fence = state_dir / "fence-production"
    fence.write_text(garbage)
    done = mark(state_dir, 999, tmp_path / "marker", shell)
    assert done.returncode not in (0, 77), f"a fence that says {garbage!r} let a change through: {done}"
    assert not (tmp_path / "marker").exists()
    assert fence.read_text() == garbage, "the evidence of who broke it is gone"


def test_an_unreadable_fence_says_what_to_do(state_dir: Path, tmp_path: Path) -> None:
    state_dir.mkdir()
    (state_dir / "fence-production").write_text("garbage")
    done = mark(state_dir, 1, tmp_path / "marker")
    assert "'garbage' is no token" in done.stderr
    assert "then remove it" in done.stderr


@pytest.mark.parametrize("token", ["", "abc", "-1", "1e3", " 7", "7 8", "9" * 19, "$(echo 9)"])
def test_what_is_no_token_is_refused(token: str, state_dir: Path, tmp_path: Path, shell: str) -> None:
    mark(state_dir, 5, tmp_path / "before", shell)
    done = mark(state_dir, token, tmp_path / "marker", shell)
    assert done.returncode != 0, f"the token {token!r} was let through"
    assert not (tmp_path / "marker").exists()


def test_raise_and_read_agree(state_dir: Path, shell: str) -> None:
    assert run("fence_read", state_dir, "production", shell=shell).stdout == "0\n", "nothing seen yet is token 0"
    raised = run("fence_raise", state_dir, "production", 42, "dag/run", shell=shell)
    assert raised.stdout == run("fence_read", state_dir, "production", shell=shell).stdout
    assert raised.stdout.startswith("42 dag/run ")


def waits_for_lock(process: subprocess.Popen[bytes]) -> bool:
    return any(command_line(pid).startswith("flock") for pid in descendants(process.pid))


def test_two_holders_at_once_enter_one_after_the_other(state_dir: Path, tmp_path: Path, shell: str) -> None:
    log = tmp_path / "log"
    log.touch()
    first = subprocess.Popen(
        text_command(STAY, state_dir, "production", 1, "a", log, shell=shell), stdin=subprocess.PIPE
    )
    until(lambda: "in 1" in log.read_text(), "the first holder is inside")
    second = subprocess.Popen(
        text_command(STAY, state_dir, "production", 2, "b", log, shell=shell), stdin=subprocess.PIPE
    )
    until(lambda: waits_for_lock(second) or "in 2" in log.read_text(), "the second holder has come to the lock")
    assert "in 2" not in log.read_text(), "two holders were inside at once"
    first.communicate(timeout=scaled(10))
    second.communicate(timeout=scaled(10))
    assert log.read_text().split("\n")[:4] == ["in 1", "out 1", "in 2", "out 2"]


def test_an_overtaken_run_that_waited_for_the_lock_is_refused_behind_it(state_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    later = subprocess.Popen(text_command(STAY, state_dir, "production", 2, "b", log), stdin=subprocess.PIPE)
    until(lambda: "in 2" in log.read_text(), "the later holder is inside")
    zombie = subprocess.Popen(text_command(STAY, state_dir, "production", 1, "a", log), stdin=subprocess.PIPE)
    until(lambda: waits_for_lock(zombie), "the zombie waits for the lock")
    later.communicate(timeout=scaled(10))
    zombie.communicate(timeout=scaled(10))
    assert zombie.returncode == 77, "the zombie compared its token before it had the lock"
    assert "in 1" not in log.read_text()


def test_a_killed_holder_leaves_no_lock_behind(state_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    killed = subprocess.Popen(text_command(STAY, state_dir, "production", 1, "dag/run", log), stdin=subprocess.PIPE)
    until(lambda: "in 1" in log.read_text(), "the holder is inside")
    family = [killed.pid, *descendants(killed.pid)]
    killed.send_signal(signal.SIGKILL)
    for pid in family[1:]:
        subprocess.run(["kill", "-9", str(pid)], check=False)
    killed.communicate()
    assert mark(state_dir, 1, tmp_path / "marker").returncode == 0, "the lock outlived its holder"


def test_who_waits_too_long_is_told_who_is_busy(state_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    holder = subprocess.Popen(text_command(STAY, state_dir, "production", 3, "dag/busy", log), stdin=subprocess.PIPE)
    until(lambda: "in 3" in log.read_text(), "the holder is inside")
    assert "flock -w 20 9" in library(), "the wait of 20 s is written otherwise now: correct this test"
    impatient = library().replace("flock -w 20 9", "flock -w 1 9") + 'fence "$@"'
    done = subprocess.run(
        [*SHELLS["dash"], "-c", impatient, "test", str(state_dir), "production", "4", "b"],
        capture_output=True,
        text=True,
        check=False,
    )
    holder.communicate(timeout=scaled(10))
    assert done.returncode == 75, done
    assert "another change is running" in done.stderr
    assert "dag/busy" in done.stderr, "it does not say who"
    fence = (state_dir / "fence-production").read_text()
    assert fence.startswith("3 "), f"a holder that never got in raised the fence: {fence}"


def test_the_scripts_do_not_depend_on_the_callers_umask(state_dir: Path, tmp_path: Path) -> None:
    done = run_text("umask 077; " + 'printf x | write_atomically "$1"', tmp_path / "file")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
