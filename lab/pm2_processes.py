"""Killing one color on an application host."""

from __future__ import annotations

import contextlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import application_hosts
from lab.hosts import check_service
from lab.waiting import LabError, until


def _pids(host: str, color: str) -> list[int]:
    check_service(host, "pm2")
    name = f"sebenza-{color}"
    found = [each["pid"] for each in application_hosts.processes(host) if each["name"] == name and each["pid"]]
    if not found:
        raise LabError(f"{host}: no process of {color} runs")
    return found


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def kill(host: str, color: str) -> None:
    """SIGKILL the color's processes; PM2 starts new ones at once."""
    _send(_pids(host, color), signal.SIGKILL)


def kill_for_good(host: str, color: str) -> None:
    """SIGKILL the color's processes so that PM2 does not start new ones."""
    pids = _pids(host, color)
    # Frozen, they can't act on PM2's stop signal; once PM2 has sent it, their death is the end it waits for.
    _send(pids, signal.SIGSTOP)
    with ThreadPoolExecutor(max_workers=1) as background:
        stopping = background.submit(application_hosts.pm2, host, "stop", f"sebenza-{color}")
        try:
            _kill_when_asked_to_stop(host, color, pids)
        finally:
            _send(pids, signal.SIGKILL)
        stopping.result()


def _kill_when_asked_to_stop(host: str, color: str, pids: list[int]) -> None:
    # PM2 may stop its processes one after the other.
    waiting = list(pids)

    def all_killed() -> bool:
        for pid in [pid for pid in waiting if _interrupted(pid)]:
            _send([pid], signal.SIGKILL)
            waiting.remove(pid)
        return not waiting

    until(all_killed, f"{host}: PM2 stops {color}", 20)


def _interrupted(pid: int) -> bool:
    """Whether a frozen process has an interrupt pending, or is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    pending = 0
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in {"SigPnd", "ShdPnd"}:
            pending |= int(value.strip(), 16)
    return bool(pending & (1 << (signal.SIGINT - 1)))


def start_again(host: str, color: str) -> None:
    """Start a color that was killed for good, unless it has been removed or started meanwhile."""
    name = f"sebenza-{color}"
    found = [each for each in application_hosts.processes(host) if each["name"] == name]
    if found and all(each["status"] != "online" for each in found):
        application_hosts.pm2(host, "restart", name)
