"""Brings the local Airflow up, tells how it is, takes it down."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lab import paths
from lab.airflow.client import AirflowApiError, AirflowClient
from lab.airflow.components import components
from lab.airflow.settings import ADDRESS, AirflowSettings, write_private
from lab.airflow.supervision import ComponentError, Supervision
from lab.airflow.users import load_or_create_users
from lab.machine import listener, port_problem
from lab.start_check import airflow_port_problem
from lab.waiting import scaled
from sebenza_ops.installation.metadata import User
from sebenza_ops.installation.roles import ROLES, pipeline_permissions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Far above what it takes (about 25 s on two idle cores): a busy machine is no failure.
READY_SECONDS = 600
POLL_SECONDS = 0.5
# A file that yields no DAG (no environment has the policy) shows up nowhere; it counts as parsed after this.
NO_DAG_SECONDS = 8


class AirflowUnavailableError(RuntimeError):
    """The local Airflow can't be brought up; the message says why and what to do."""


@dataclass
class Report:
    """What `up` found: how long it took, and what there is."""

    seconds: float
    already_running: bool
    dag_ids: list[str] = field(default_factory=list)
    import_errors: list[dict[str, Any]] = field(default_factory=list)


class LocalAirflow:
    """One local Airflow.

    Args:
        settings: paths and ports.
        say: told about progress, one line at a time.
    """

    def __init__(self, settings: AirflowSettings, say: Callable[[str], None] = lambda _: None) -> None:
        self.settings = settings
        self.supervision = Supervision(settings)
        self._say = say

    def users(self) -> dict[str, User]:
        """The users by name, with passwords."""
        return load_or_create_users(self.settings.users_file)

    def client(self, username: str = "operator", *, patience_seconds: float = 60) -> AirflowClient:
        """A client that acts as one of the users.

        Raises:
            AirflowUnavailableError: there is no such user.
        """
        users = self.users()
        if username not in users:
            raise AirflowUnavailableError(f"there is no user {username!r}; there are {', '.join(users)}")
        user = users[username]
        return AirflowClient(self.settings.url, user.username, user.password, patience_seconds=patience_seconds)

    # --- up

    def up(self) -> Report:
        """Start all components and wait until they are healthy and every DAG file is parsed. Idempotent.

        Raises:
            AirflowUnavailableError: it can't start, or isn't ready in time.
        """
        began = time.monotonic()
        with self._lock():
            running = self.supervision.process() is not None
            started_at = datetime.now(UTC)
            if not running:
                self._start()
            self._await_healthy(began)
            report = self._await_parsed(began, None if running else started_at)
            self._grant_pipeline_access(report.dag_ids)
        report.already_running = running
        return report

    def _start(self) -> None:
        self._check_port()
        self.settings.write_configuration()
        self.settings.logs_directory.mkdir(parents=True, exist_ok=True)
        self._prepare_metadata()
        self._say("starting " + ", ".join(component.name for component in components(self.settings)))
        try:
            self.supervision.start()
        except ComponentError as error:
            raise AirflowUnavailableError(str(error)) from error

    def _check_port(self) -> None:
        port = self.settings.port
        wrong = port_problem(ADDRESS, port)
        if wrong is not None:
            raise AirflowUnavailableError(airflow_port_problem(port, wrong, listener(ADDRESS, port)))

    def _prepare_metadata(self) -> None:
        """Schema, roles and users; skipped when they are what this code and these versions make."""
        users_text = json.dumps({name: user.role for name, user in self.users().items()})
        parts = [version("apache-airflow-core"), version("apache-airflow-providers-fab"), repr(ROLES), users_text]
        wanted = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        marker = self.settings.home / "prepared"
        is_there = self.settings.celery is not None or self.settings.database_file.exists()
        if is_there and marker.exists() and marker.read_text() == wanted:
            return
        self._say("preparing the metadata database, roles and users")
        log = self.settings.logs_directory / "prepare.log"
        environment = self.settings.process_environment()
        environment["PYTHONPATH"] += os.pathsep + str(paths.CHECKOUT)
        command = [sys.executable, "-m", "lab.airflow.metadata", str(self.settings.users_file)]
        with log.open("wb") as output:
            done = subprocess.run(
                command, cwd=self.settings.home, env=environment, stdout=output, stderr=output, check=False
            )
        if done.returncode != 0:
            raise AirflowUnavailableError(
                f"the metadata database could not be prepared (code {done.returncode}): {last_line(log)} "
                f"(details: {log}); `python -m lab.airflow down --forget` starts from nothing"
            )
        write_private(marker, wanted)

    def _await_healthy(self, began: float) -> None:
        awaited = ""
        with self.client("admin", patience_seconds=0) as client:
            while True:
                try:
                    health = client.healthy()
                    sick = [name for name, row in health.items() if row.get("status") not in ("healthy", None)]
                except AirflowApiError:
                    sick = ["api server"]
                if not sick:
                    return
                line = f"waiting for {', '.join(sick)}"
                if line != awaited:
                    self._say(line)
                    awaited = line
                self._check_patience(began, line)
                time.sleep(POLL_SECONDS)

    def _check_patience(self, began: float, waiting: str) -> None:
        if self.supervision.process() is None:
            raise AirflowUnavailableError(
                f"Airflow's supervisor has ended while {waiting}: see {self.settings.logs_directory / 'components'}"
            )
        if time.monotonic() - began > scaled(READY_SECONDS):
            lines = [
                f"{name}: {state['statename']}, {last_line(self.component_log(name))}"
                for name, state in self.supervision.states().items()
            ]
            raise AirflowUnavailableError(
                f"Airflow is not ready after {time.monotonic() - began:.0f} s, still {waiting}. Last lines:\n  "
                + "\n  ".join(lines)
            )

    def _await_parsed(self, began: float, since: datetime | None) -> Report:
        files = dag_files(self.settings)
        healthy_at = time.monotonic()
        with self.client("admin") as client:
            while True:
                dags, errors = client.dags(), client.import_errors()
                fresh = [dag for dag in dags if since is None or _parsed_at(dag) >= since]
                missing = len(files) - len({dag["fileloc"] for dag in fresh} | {error["filename"] for error in errors})
                settled = time.monotonic() - healthy_at > scaled(NO_DAG_SECONDS) and len(fresh) == len(dags)
                if missing <= 0 or settled:
                    ids = sorted(dag["dag_id"] for dag in dags)
                    return Report(time.monotonic() - began, False, ids, errors)
                self._check_patience(began, f"waiting for {missing} of {len(files)} DAG files to be parsed")
                time.sleep(POLL_SECONDS)

    def _grant_pipeline_access(self, dag_ids: list[str]) -> None:
        """Give the pipeline's role the right to start deployments, one DAG at a time."""
        wanted = pipeline_permissions(dag_ids)
        with self.client("admin") as client:
            role = client.request("GET", "/auth/fab/v1/roles/Pipeline")
            present = {(row["action"]["name"], row["resource"]["name"]) for row in role["actions"]}
            if present == wanted:
                return
            actions = [{"action": {"name": a}, "resource": {"name": r}} for a, r in sorted(wanted)]
            client.request("PATCH", "/auth/fab/v1/roles/Pipeline", json={"name": "Pipeline", "actions": actions})

    # --- down and status

    def down(self) -> int:
        """Stop everything; returns the number of processes that had to be killed."""
        with self._lock():
            return self.supervision.stop()

    def component_log(self, component: str) -> Path:
        """The output of a component."""
        return self.settings.logs_directory / "components" / f"{component}.log"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time; the kernel frees it when its holder dies."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        with (self.settings.home / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def dag_files(settings: AirflowSettings) -> list[Path]:
    """Files that Airflow takes for DAG files: Python that mentions both, as its own heuristic has it."""
    found = []
    for folder in settings.dags_folders:
        for path in sorted(folder.rglob("*.py")):
            text = path.read_bytes().lower()
            if b"dag" in text and b"airflow" in text:
                found.append(path)
    return found


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return "(no log)"
    return lines[-1].strip() if lines else "(empty log)"


def _parsed_at(dag: dict[str, Any]) -> datetime:
    text = dag.get("last_parsed_time")
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)
