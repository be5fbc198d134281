"""What stops the lab from starting, as far as it can be told with nothing installed.

``python3 -m lab.start_check`` prints a line for each problem. Needs the standard library only: scripts/setup.sh asks
before it installs anything.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from lab import paths
from lab.addresses import AIRFLOW_ADDRESS, ALL_HOST_NAMES, NETWORK, address, airflow_port, network_problem
from lab.hosts import listening
from lab.machine import Process, listener, port_problem, process
from lab.programs import MARKER_VARIABLE, RETITLED, marker

REQUIRED_DISK_MIB: Final = 2048
# supervisor, PATH, PYTHONPATH and Nginx each take some character for a separator.
_PLAIN_PATH = re.compile(r"[\w./+@=~-]+")


def problems() -> list[str]:
    """Everything that stops a start, each in a line that says what to do; empty when nothing does."""
    return [*_settings_problems(), *_place_problems(), *_network_problems(), *_airflow_port_problems()]


def _settings_problems() -> list[str]:
    extra = os.environ.get("SEBENZA_EXTRA_DAGS")
    if extra and not Path(extra).is_dir():
        return [f"SEBENZA_EXTRA_DAGS={extra!r}: there is no such directory"]
    return []


def _place_problems() -> list[str]:
    found = [
        f"{place} has characters that programs of the lab take for separators: use a path of letters, digits, ._-+@=~"
        for place in dict.fromkeys((paths.CHECKOUT, paths.LAB_DIR))
        if not _PLAIN_PATH.fullmatch(str(place))
    ]
    closed = paths.closed_directory(paths.LAB_DIR)
    if closed is not None:
        found.append(closed_problem(closed))
    if (short := disk_problem()) is not None:
        found.append(short)
    return found


def closed_problem(closed: Path) -> str:
    """What to do about a directory on the way to the lab's that its accounts can't enter."""
    return (
        f"the lab's accounts (sebenza, postgres, ...) can't enter {closed}, which SEBENZA_LAB_DIR leads through: "
        "unset it, or choose a place such as /srv/sebenza-lab"
    )


def disk_problem() -> str | None:
    """What to do about too little disk for the lab; None when there is enough."""
    existing = next(place for place in (paths.LAB_DIR, *paths.LAB_DIR.parents) if place.exists())
    free_mib = shutil.disk_usage(existing).free // 2**20
    if free_mib >= REQUIRED_DISK_MIB:
        return None
    return (
        f"too little disk: {free_mib} MiB free in {paths.LAB_DIR}, {REQUIRED_DISK_MIB} MiB needed: "
        "free some space, or move the lab with SEBENZA_LAB_DIR"
    )


def _network_problems() -> list[str]:
    if (wrong := network_problem()) is not None:
        return [wrong]
    other = other_lab()
    return [other_lab_problem(other)] if other is not None else lab_port_problems()


def other_lab() -> Path | None:
    """The directory of another lab that runs on this machine now, if one does."""
    for host in ALL_HOST_NAMES:
        link = paths.host_root(host)
        if not link.is_symlink():
            continue
        target = link.readlink()
        if target != paths.host_files(host) and _manager_runs(host, target):
            return target.parent.parent
    return None


def other_lab_problem(other: Path) -> str:
    """What to do about another lab that runs."""
    return (
        f"another lab runs from {other}: stop it with SEBENZA_LAB_DIR={other} python -m lab down, "
        f"or start this one beside it with SEBENZA_LAB_NET (now {NETWORK}) and SEBENZA_AIRFLOW_PORT"
    )


def _manager_runs(host: str, files: Path) -> bool:
    found = _by_pid_file(files / "run/supervisord.pid")
    return found is not None and str(paths.host_root(host) / "etc/supervisor/supervisord.conf") in found.arguments


def _by_pid_file(file: Path) -> Process | None:
    try:
        return process(int(file.read_text()))
    except (OSError, ValueError):
        return None


def lab_port_problems() -> list[str]:
    """Every address and port of a host that is down and that something else than this lab has."""
    found = []
    for host, service, port in listening():
        if _manager_runs(host, paths.host_files(host)):
            continue
        wrong = port_problem(address(host), port)
        if wrong is None:
            continue
        holder = listener(address(host), port)
        if holder is not None and _is_left_over(host, holder):
            continue
        what = "stop that program, or move the lab" if holder is not None else "move the lab"
        found.append(
            f"{address(host)}:{port}, which {service} on {host} needs, {wrong}{_named(holder)}: "
            f"{what} with SEBENZA_LAB_NET (now {NETWORK})"
        )
    return found


def _is_left_over(host: str, holder: Process) -> bool:
    """Whether an unclean end of this very lab has left it: the start ends such processes."""
    if holder.environment.get(MARKER_VARIABLE) == marker(host):
        return True
    link = paths.host_root(host)
    return holder.name in RETITLED and link.is_symlink() and link.readlink() == paths.host_files(host)


def _airflow_port_problems() -> list[str]:
    home = paths.LAB_DIR / "airflow"
    own = _by_pid_file(home / "supervisord.pid")
    if own is not None and str(home / "supervisord.conf") in own.arguments:
        return []
    try:
        port = airflow_port()
    except ValueError as error:
        return [str(error)]
    wrong = port_problem(AIRFLOW_ADDRESS, port)
    if wrong is None:
        return []
    holder = listener(AIRFLOW_ADDRESS, port)
    return [airflow_port_problem(port, wrong, holder)]


def airflow_port_problem(port: int, wrong: str, holder: Process | None) -> str:
    """What to do about the port of the lab's Airflow."""
    return (
        f"{AIRFLOW_ADDRESS}:{port}, which the lab's Airflow needs, {wrong}{_named(holder)}: "
        "stop that program, or choose another port with SEBENZA_AIRFLOW_PORT"
    )


def _named(holder: Process | None) -> str:
    return f" by {holder}" if holder is not None else ""


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in problems())
