"""How long Airflow takes from nothing until it works."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from benchmarks.rows import Row
from benchmarks.session import BenchmarkError
from lab import paths
from lab.airflow.settings import ADDRESS, AirflowSettings
from lab.airflow.stack import LocalAirflow
from lab.waiting import scaled, until

READY: Final = "airflow.ready_seconds"
READY_SECONDS: Final = 300.0
STOP_SECONDS: Final = 10.0


def measure(say: Callable[[str], None]) -> list[Row]:
    """The lab's Airflow with its users and roles, beside `airflow standalone`, each with all DAGs, until it is healthy.

    Both from an empty directory, one after the other, on ports of their own: an Airflow that runs is left alone.
    """
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-airflow-") as directory:
        ours = _ours(Path(directory))
        say(f"Airflow is healthy from nothing after {ours:.1f} s")
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-airflow-") as directory:
        standalone = _standalone(Path(directory))
        say(f"`airflow standalone` is healthy from nothing after {standalone:.1f} s")
    return [Row(READY, round(ours, 1), round(standalone, 1), "s", 1)]


def _ours(directory: Path) -> float:
    settings = AirflowSettings(
        home=directory / "airflow",
        port=_free_port(),
        dags_folders=(paths.CHECKOUT / "dags",),
        environments_directory=paths.CHECKOUT / "include" / "environments",
        connections_file=directory / "connections.yaml",
    )
    settings.home.mkdir(parents=True)
    settings.connections_file.write_text("{}\n")
    airflow = LocalAirflow(settings)
    began = time.monotonic()
    try:
        with ThreadPoolExecutor(1) as background:
            starting = background.submit(airflow.up)
            until(
                lambda: starting.done() or _is_healthy(settings.port),
                "Airflow is healthy",
                READY_SECONDS,
                progress=lambda: sorted(airflow.supervision.states()),
                error=BenchmarkError,
            )
            seconds = time.monotonic() - began
            # It waits for the DAGs too, and says what went wrong.
            report = starting.result()
    finally:
        airflow.supervision.kill()
    if report.import_errors:
        raise BenchmarkError(f"DAG files could not be imported: {report.import_errors}")
    return seconds


def _standalone(home: Path) -> float:
    port, program = _free_port(), Path(sys.executable).with_name("airflow")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        # It starts `airflow` by that name.
        "PATH": f"{program.parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(paths.CHECKOUT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__HOST": ADDRESS,
        # Where the other components look for it.
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{ADDRESS}:{port}/execution/",
        "PYTHONPATH": f"{paths.CHECKOUT / 'plugins'}:{paths.CHECKOUT}",
        "SEBENZA_ENVIRONMENTS": str(paths.CHECKOUT / "include" / "environments"),
    }
    log = home / "standalone.log"
    command = [str(program), "standalone"]
    began = time.monotonic()
    with (
        log.open("wb") as output,
        _ended(subprocess.Popen(command, env=environment, stdout=output, stderr=output)) as it,
    ):

        def is_healthy() -> bool:
            if it.poll() is not None:
                raise BenchmarkError(f"`airflow standalone` has ended with {it.returncode}: {_end(log)}")
            return _is_healthy(port)

        until(
            is_healthy,
            "`airflow standalone` is healthy",
            READY_SECONDS,
            progress=lambda: f"{log.stat().st_size} bytes of log",
            error=lambda told: BenchmarkError(f"{told}: {_end(log)}"),
        )
        return time.monotonic() - began


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{ADDRESS}:{port}/api/v2/monitor/health", timeout=5) as answer:
            parts = json.load(answer)
    except urllib.error.HTTPError:
        return False
    return all(part.get("status") == "healthy" for part in parts.values())


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process, and all that it has started, have ended after the block."""
    try:
        yield process
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        # Nobody goes on with it.
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(family, timeout=scaled(STOP_SECONDS))
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-1500:].strip()
