"""Keeps Airflow as busy as a deployment does, while something is measured beside it.

With the lab's Airflow up: runs of check_environment, which only reads, one after the other. Each costs what a task
costs (scheduling, a process of its own, the API) and logs in to every host, as the tasks of a deployment do. Without
it: a stand-in, processes that import Airflow and parse a DAG file, as every task's process does.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from lab import paths
from lab.airflow.client import AirflowApiError, AirflowClient, AwaitTimeoutError
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.connections import storage_client
from lab.storage import BUCKET
from lab.waiting import LabError
from sebenza_ops.evidence.store import report_key

DAG_ID: Final = "check_environment.production"
NOTE: Final = "Keeps Airflow busy while it is measured what the estate serves beside it."
# As a deployment, whose tasks mostly follow one another. With either, Airflow takes 0.64 of a processor (measured).
AT_A_TIME: Final = 1
BEGIN_SECONDS: Final = 120.0
RUN_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.1
# What a task's process does before its own work.
DAG_FILE: Final = paths.CHECKOUT / "dags" / "environments" / "check_environment.py"
PARSE: Final = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
sys.exit(f"{sys.argv[1]} can't be parsed: {bag.import_errors}" if bag.import_errors or not bag.dags else 0)
"""


class Work(Protocol):
    """What keeps Airflow busy."""

    name: str

    def check(self) -> None:
        """Raise LabError when it has stopped."""


@contextlib.contextmanager
def busy_airflow(say: Callable[[str], None]) -> Iterator[Work]:
    """Airflow, or its stand-in, is at work inside the block. Afterwards it rests, and no run of this is left.

    Raises LabError when it can't be brought to work.
    """
    with tempfile.TemporaryDirectory(prefix="sebenza-busy-") as home:
        airflow = LocalAirflow(lab_settings())
        work: _Runs | _Processes
        if airflow.supervision.process() is not None:
            work = _Runs(airflow)
        else:
            say("Airflow is not up: processes that import it and parse a DAG file stand in for it")
            work = _Processes(home)
        try:
            work.start()
            yield work
        finally:
            work.end()


class _Runs:
    """Runs of a procedure that only reads, one after the other."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self.name = f"runs of {DAG_ID}"
        self._airflow = airflow
        self._run_ids: list[str] = []
        self._begun = threading.Event()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._threads = [
            threading.Thread(target=self._again_and_again, name=f"busy-{number}", daemon=True)
            for number in range(AT_A_TIME)
        ]

    def start(self) -> None:
        """Start, and wait until the first task runs."""
        for thread in self._threads:
            thread.start()
        if not self._begun.wait(BEGIN_SECONDS):
            raise LabError(f"no task of {DAG_ID} began within {BEGIN_SECONDS:g} s: look at it at {self._url()}")
        self.check()

    def check(self) -> None:
        """Raise LabError when a run could not be started or followed."""
        if self._error is not None:
            raise LabError(f"Airflow could not be kept busy with {self.name}: {self._error}") from self._error

    def end(self) -> None:
        """Let the last runs end, and remove all of them with their reports."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(RUN_SECONDS)
        reports = storage_client()
        with self._airflow.client("admin") as admin:
            for run_id in self._run_ids:
                admin.request("DELETE", f"/dags/{DAG_ID}/dagRuns/{run_id}")
                reports.delete_object(Bucket=BUCKET, Key=report_key("production", DAG_ID, run_id))

    def _url(self) -> str:
        return f"{self._airflow.settings.url}/dags/{DAG_ID}"

    def _again_and_again(self) -> None:
        try:
            with self._airflow.client("operator") as client:
                while not self._stop.is_set():
                    self._once(client)
        except (AirflowApiError, AwaitTimeoutError) as error:
            self._error = error
        finally:
            self._begun.set()

    def _once(self, client: AirflowClient) -> None:
        run_id = client.trigger(DAG_ID, {}, note=NOTE)
        self._run_ids.append(run_id)
        states = {"running", "success", "failed"}
        client.await_state(DAG_ID, run_id, states, task_id="check_environment", timeout_seconds=BEGIN_SECONDS)
        self._begun.set()
        # Whatever it finds: that it works is what is wanted.
        client.await_state(DAG_ID, run_id, timeout_seconds=RUN_SECONDS)


class _Processes:
    """The stand-in: one process after the other, each as a task's begins."""

    name = "processes that import Airflow and parse a DAG file"

    def __init__(self, home: str) -> None:
        self._variables = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": str(paths.CHECKOUT / "plugins"),
            "SEBENZA_ENVIRONMENTS": str(paths.ENVIRONMENTS_DIR),
        }
        self._home = home
        self._error = ""
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._again_and_again, name=f"busy-{number}", daemon=True)
            for number in range(AT_A_TIME)
        ]

    def start(self) -> None:
        """Start."""
        for thread in self._threads:
            thread.start()

    def check(self) -> None:
        """Raise LabError when a process has failed."""
        if self._error:
            raise LabError(f"what stands in for Airflow has failed: {self._error}")

    def end(self) -> None:
        """End the last ones."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _again_and_again(self) -> None:
        while not self._stop.is_set() and not self._error:
            self._once()

    def _once(self) -> None:
        command = [sys.executable, "-c", PARSE, str(DAG_FILE)]
        with tempfile.TemporaryFile("w+", dir=self._home) as output:
            process = subprocess.Popen(command, env=self._variables, cwd=self._home, stdout=output, stderr=output)
            while process.poll() is None:
                if self._stop.wait(POLL_SECONDS):
                    process.kill()
                    process.wait()
            if process.returncode != 0 and not self._stop.is_set():
                output.seek(0)
                self._error = output.read().strip()[-500:] or f"exit code {process.returncode}"
