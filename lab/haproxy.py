"""HAProxy on the lab's load balancers: its runtime API, reload and restart."""

from __future__ import annotations

import csv
import io
import signal
import socket

from lab import paths, supervision
from lab.waiting import LabError, until

_TIMEOUT_SECONDS = 5.0


def _socket_path(host: str) -> str:
    return str(paths.host_root(host) / "run/haproxy/admin.sock")


def runtime_command(host: str, command: str) -> str:
    """What HAProxy's runtime API answers; `OSError` when it can't be reached."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(_socket_path(host))
        connection.sendall(command.encode() + b"\n")
        chunks = []
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def _statistics(host: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(runtime_command(host, "show stat").removeprefix("# "))))


def servers(host: str, backend: str) -> dict[str, str]:
    """Status (UP, DOWN, MAINT, ...) of each server of a backend."""
    return {
        row["svname"]: row["status"]
        for row in _statistics(host)
        if row["pxname"] == backend and row["svname"] not in {"FRONTEND", "BACKEND"}
    }


def sessions(host: str) -> int:
    """Requests that servers work on or that wait for one; health checks do not count."""
    rows = [row for row in _statistics(host) if row["svname"] == "BACKEND"]
    return sum(int(row["scur"] or 0) + int(row["qcur"] or 0) for row in rows)


def put_into_rotation(host: str, backend: str) -> None:
    """End what a rollout or people did to a backend's servers: none is drained or in maintenance afterwards."""
    for name in servers(host, backend):
        runtime_command(host, f"set server {backend}/{name} state ready")


def await_servers(host: str, backend: str, deadline_seconds: float = 20.0) -> None:
    """Wait until a load balancer sees every server of a backend up."""

    def all_up() -> bool:
        found = servers(host, backend)
        return bool(found) and all(status.startswith("UP") for status in found.values())

    try:
        until(all_up, f"{host}: every server of {backend} is up", deadline_seconds)
    except LabError as error:
        raise LabError(f"{error}: {servers(host, backend)}") from None


def worker_pid(host: str) -> int:
    """Process id of the worker that accepts new connections."""
    for line in runtime_command(host, "show info").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    raise LabError(f"{host}: HAProxy does not tell its process id")


def reload(host: str) -> None:
    """Reload HAProxy as `systemctl reload haproxy` does, and wait for the new worker."""
    before = worker_pid(host)
    supervision.signal_service(host, "haproxy", signal.SIGUSR2)
    log = paths.host_files(host) / "var/log/haproxy.log"
    until(lambda: worker_pid(host) != before, f"{host}: HAProxy has reloaded (log: {log})", 10)


def restart(host: str) -> None:
    """Restart HAProxy as `systemctl restart haproxy` does, and wait until it listens."""
    supervision.restart(host, "haproxy")
