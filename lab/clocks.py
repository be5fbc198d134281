"""A host whose clock is wrong: PostgreSQL, all that it starts, and whatever comes in over SSH see another time.

All hosts share the machine's clock, so theirs is changed by libfaketime, which gives a process another time of day and
leaves alone how time passes (https://github.com/wolfcw/libfaketime).
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from lab import paths, supervision
from lab.waiting import LabError

LIBRARY: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_MARK: Final = "# a fault: "
_SHEBANG: Final = "#!/bin/sh\n"


def set_wrong(host: str, seconds: int) -> None:
    """Let a database host's clock be so many seconds ahead (or behind, below zero). Its PostgreSQL is restarted."""
    if not LIBRARY.exists():
        raise LabError(f"{LIBRARY} is not installed: run scripts/setup.sh (make demo and make test do)")
    values = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": f"{seconds:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    _set(host, values)


def set_right(host: str) -> None:
    """Let a host's clock be the machine's again."""
    _set(host, {})


def _set(host: str, values: dict[str, str]) -> None:
    words = " ".join(f"{name}={value}" for name, value in values.items())
    script, sshd = _script(host), paths.host_files(host) / "etc/ssh/sshd_config"
    lines = [line for line in script.read_text().removeprefix(_SHEBANG).splitlines() if _MARK not in line]
    export = [f"export {words} {_MARK}the clock is wrong"] if words else []
    script.write_text(_SHEBANG + "\n".join([*export, *lines, ""]))
    sshd.write_text("\n".join([*map(lambda line: _with(line, words), sshd.read_text().splitlines()), ""]))
    supervision.stop(host, "postgresql")
    supervision.start(host, "postgresql")
    supervision.signal_service(host, "sshd", signal.SIGHUP)
    supervision.await_listening(host, "sshd")


def _script(host: str) -> Path:
    return paths.host_files(host) / "etc/postgresql/postgresql.sh"


def _with(line: str, words: str) -> str:
    """What sshd sets is in one line of its configuration; what a host has by itself comes first there."""
    if not line.startswith("SetEnv "):
        return line
    return f"{line.partition(' LD_PRELOAD=')[0]}{f' {words}' if words else ''}"
