"""Real servers of these tests: started on loopback, awaited, ended by their process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import waiting
from lab.waiting import scaled

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], bool], what: str, timeout_seconds: float = 10.0) -> None:
    """Wait for a condition; fail with what was awaited. The time is that of an idle machine, see `lab.waiting`."""
    waiting.until(condition, what, timeout_seconds, poll_seconds=0.01, error=AssertionError)


def accepts(port: int) -> bool:
    """Whether somebody takes connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _parents() -> dict[int, int]:
    """The parent of every process. (/proc/PID/task/TID/children may leave some out, proc(5) warns.)"""
    parents = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError):
                parents[int(place.name)] = int((place / "stat").read_text().rpartition(") ")[2].split()[1])
    return parents


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [child for child, parent in _parents().items() if parent == pid]


def descendants(pid: int) -> list[int]:
    """The processes below a process, itself not among them."""
    parents = _parents()
    found = [pid]
    for known in found:
        found += [child for child, parent in parents.items() if parent == known]
    return found[1:]


def command_line(pid: int) -> str:
    """What `ps` shows of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def end(process: subprocess.Popen[str]) -> None:
    """End a process and what it has started, and wait for it."""
    family = [process.pid, *descendants(process.pid)]
    process.terminate()
    try:
        process.wait(timeout=scaled(5))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=scaled(5))
    for pid in family[1:]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def server(
    argv: Sequence[str], log: Path, ready: Callable[[], bool], *, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A server that runs while the block does; its output goes to `log`."""
    with log.open("a") as output:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    try:

        def is_ready() -> bool:
            assert process.poll() is None, f"{argv[0]} has ended: {log.read_text()[-2000:]}"
            return ready()

        until(is_ready, f"{argv[0]} is ready, see {log}", 15)
        yield process
    finally:
        end(process)
