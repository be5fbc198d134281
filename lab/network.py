"""Faults of the network: packets that vanish, answers that come late."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import paths
from lab.addresses import address
from lab.programs import MARKER_VARIABLE, marker
from lab.waiting import LabError, until

# On the proxy's own connections, so that they are not led to the proxy again.
PROXY_MARK: Final = 0x5EB


@dataclass(frozen=True)
class DelayProxy:
    """A running delay proxy: its process, and the port it listens on."""

    pid: int
    port: int


def cut_rules(host_address: str, ports: tuple[int, ...], *, reset: bool) -> list[list[str]]:
    """Packet filter rules that stop traffic to and from ports of an address (none: all of it)."""
    verdict = ["--jump", "REJECT", "--reject-with", "tcp-reset"] if reset else ["--jump", "DROP"]
    to_host, from_host = ["--destination", host_address], ["--source", host_address]
    if not ports:
        if not reset:
            return [[*to_host, *verdict], [*from_host, *verdict]]
        return [[*side, "--protocol", "tcp", *verdict] for side in (to_host, from_host)]
    rules = []
    for port in ports:
        rules.append([*to_host, "--protocol", "tcp", "--dport", str(port), *verdict])
        rules.append([*from_host, "--protocol", "tcp", "--sport", str(port), *verdict])
    return rules


def redirect_rule(host_address: str, port: int, proxy_port: int) -> list[str]:
    """The rule that leads new connections to a port of a host to the delay proxy."""
    match = ["--destination", host_address, "--protocol", "tcp", "--dport", str(port)]
    not_its_own = ["--match", "mark", "!", "--mark", hex(PROXY_MARK)]
    return [*match, *not_its_own, "--jump", "REDIRECT", "--to-ports", str(proxy_port)]


def start_delay_proxy(host: str, port: int, delay_seconds: float) -> DelayProxy:
    """Start a proxy to a port of a host that delays what passes through it."""
    log = paths.FAULTS_DIR / f"delay-{host}-{port}.log"
    paths.FAULTS_DIR.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lab.delay_proxy", address(host), str(port), str(delay_seconds)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=str(paths.CHECKOUT),
            env={"PATH": "/usr/bin:/bin", MARKER_VARIABLE: marker(host)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def listens() -> bool:
        if process.poll() is not None:
            raise LabError(f"the delay proxy ended: {log.read_text()[-300:]}")
        return log.read_text().startswith("listening ")

    until(listens, f"the delay proxy for {host}:{port} listens", 10)
    return DelayProxy(process.pid, int(log.read_text().split()[1]))


def stop_delay_proxy(pid: int) -> None:
    """End a delay proxy; connections through it are closed."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return
    if b"lab.delay_proxy" in command:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def close_connections(host_address: str, port: int | None) -> None:
    """Close established connections to a port (None: any) on both sides, where the kernel can.

    It can with CONFIG_INET_DIAG_DESTROY, which Debian's kernels have.
    """
    to_host, from_host = ["dst", host_address], ["src", host_address]
    if port is not None:
        to_host += ["dport", "=", f":{port}"]
        from_host += ["sport", "=", f":{port}"]
    expression = ["(", *to_host, ")", "or", "(", *from_host, ")"]
    subprocess.run(["ss", "--kill", "--tcp", "--no-header", *expression], capture_output=True, check=False)
