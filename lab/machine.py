"""What the machine says about processes and ports, by /proc alone: it is asked before anything is installed."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"  # include/net/tcp_states.h
_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process, as far as it may be read; what may not is empty."""

    pid: int
    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    directory: Path | None

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def process(pid: int) -> Process | None:
    """A process by its id; None when there is none, or only what its parent has not buried yet."""
    try:
        status = (_PROC / str(pid) / "stat").read_text()
        name = (_PROC / str(pid) / "comm").read_text().strip()
    except OSError:
        return None
    if status.rpartition(")")[2].split()[0] == "Z":
        return None
    settings = (each.partition("=") for each in _words(pid, "environ"))
    return Process(
        pid, name, _words(pid, "cmdline"), {key: value for key, _, value in settings}, _link(_PROC / str(pid) / "cwd")
    )


def _words(pid: int, file: str) -> tuple[str, ...]:
    try:
        return tuple((_PROC / str(pid) / file).read_text(errors="replace").rstrip("\0").split("\0"))
    except OSError:
        return ()


def _link(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


def port_problem(address: str, port: int) -> str | None:
    """Why a program can't listen there, in words; None when it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return "is no address of this machine"
            return f"is taken ({error.strerror})" if error.errno == errno.EADDRINUSE else str(error.strerror)
    return None


def listener(address: str, port: int) -> Process | None:
    """Who listens on an address and port, or on that port of all addresses; None when that can't be told."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(address, port)}
    if not wanted:
        return None
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if any(str(_link(Path(held.path))) in wanted for held in os.scandir(entry / "fd")):
                return process(int(entry.name))
        except OSError:
            continue
    return None


def _inodes(address: str, port: int) -> list[str]:
    four = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}"
    found = []
    for table, places in (("tcp", {four, "0" * 8}), ("tcp6", {"0" * 32, "0" * 16 + "FFFF0000" + four})):
        try:
            rows = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            words = row.split()
            place, _, number = words[1].partition(":")
            if place in places and int(number, 16) == port and words[3] == _LISTENING:
                found.append(words[9])
    return found
