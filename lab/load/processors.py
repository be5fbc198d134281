"""How much of the machine's processors is used by what is no part of the lab."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Final

import psutil

from lab import supervision
from lab.airflow.settings import lab_settings
from lab.airflow.supervision import Supervision
from lab.hosts import present_hosts

LOOK_SECONDS: Final = 1.0


def foreign_cores() -> float:
    """Processors in use by other programs than the lab, its Airflow and the caller, over a second.

    What the machine's own host has taken away counts as well.
    """
    own_before, before = own_seconds(), psutil.cpu_times()
    time.sleep(LOOK_SECONDS)
    own_after, after = own_seconds(), psutil.cpu_times()
    own = sum(seconds - own_before.get(pid, 0.0) for pid, seconds in own_after.items())
    idle = after.idle + after.iowait - before.idle - before.iowait
    # Of all processors together; guest times are part of user times.
    passed = sum(after[:8]) - sum(before[:8])
    return max(0.0, (passed - idle - own) / passed * (os.cpu_count() or 1))


def own_seconds() -> dict[int, float]:
    """Processor seconds of each process of ours, with those of its children that have ended."""
    airflow = Supervision(lab_settings()).process()
    roots = {pid for host in present_hosts() if (pid := supervision.init_pid(host)) is not None}
    roots |= {os.getpid(), *([airflow.pid] if airflow else [])}
    parents, seconds = {}, {}
    for process in psutil.process_iter(["ppid", "cpu_times"]):
        parents[process.pid] = process.info["ppid"]
        seconds[process.pid] = sum(process.info["cpu_times"][:4]) if process.info["cpu_times"] else 0.0
    return {pid: used for pid, used in seconds.items() if _is_below(pid, roots, parents)}


def _is_below(pid: int, roots: Collection[int], parents: dict[int, int]) -> bool:
    while pid and pid not in roots:
        pid = parents.get(pid, 0)
    return bool(pid)
