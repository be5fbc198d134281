"""A blue-green deployment through the API of the installation, with its worker killed in the middle."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

from lab.addresses import HTTPS_PORT
from lab.airflow.client import AirflowClient
from lab.compose.project import ComposeError, Project
from lab.compose.systemd import ENVIRONMENT, expect
from lab.waiting import until

DEPLOY: Final = f"deploy_blue_green.{ENVIRONMENT}"
WORKER: Final = f"worker-{ENVIRONMENT}"
VERSION: Final = "v1.1.0"
PATIENCE_SECONDS: Final = 600.0
USERS: Final = {"operator": "Operator", "approver": "Approver", "ci": "Pipeline"}


def deploy_with_a_killed_worker(project: Project, password: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Deploy as "operator" with its password, kill the worker while the release bakes, and await the end."""
    with AirflowClient(f"http://127.0.0.1:{project.port}", "operator", password) as operator:
        _await(lambda: DEPLOY in {dag["dag_id"] for dag in operator.dags()}, f"{DEPLOY} is parsed")
        began = time.monotonic()
        run_id = operator.trigger(DEPLOY, {"version": VERSION})
        say(f"{DEPLOY} {run_id} started as operator")
        _await(lambda: _phase(project, run_id) == "baking", "the deployment bakes")
        restarts = project.inspect(WORKER)["RestartCount"]
        killed_at = time.monotonic()
        # As the machine would lose it: `docker kill` counts as stopped on purpose, and is not restarted.
        os.kill(int(project.inspect(WORKER)["State"]["Pid"]), signal.SIGKILL)
        say(f"{WORKER} killed (SIGKILL) while the release bakes")
        state = operator.await_state(DEPLOY, run_id, timeout_seconds=PATIENCE_SECONDS)
        ended_at = time.monotonic()
        again = sorted(task.task_id for task in operator.task_instances(DEPLOY, run_id) if task.try_number > 1)
    expect(state == "success", f"{DEPLOY} {run_id} ended as {state}: {_detail(project, run_id)}")
    expect(bool(again), "no task was tried again: the kill struck none")
    expect(project.inspect(WORKER)["RestartCount"] > restarts, f"the engine did not start {WORKER} again")
    live = live_release(project)
    expect(live.startswith(f"{VERSION}-"), f"{live} is live instead of {VERSION}")
    say(f"converged: {live} is live, tried again: {', '.join(again)}; {WORKER} was started again")
    return {
        "outcome": state,
        "release": live,
        "tried_again": again,
        "deployment_seconds": round(ended_at - began, 1),
        "seconds_from_kill_to_end": round(ended_at - killed_at, 1),
    }


def create_users(project: Project, say: Callable[[str], None]) -> str:
    """Create a user for each of USERS, as an admin would over the API. Returns their password."""
    row = json.loads((project.secrets_dir / "users.json").read_text())[0]
    password = secrets.token_urlsafe(16)
    with AirflowClient(f"http://127.0.0.1:{project.port}", row["username"], row["password"]) as admin:
        for name, role in USERS.items():
            user = {
                "username": name,
                "first_name": name.capitalize(),
                "last_name": "of the test",
                "email": f"{name}@sebenza.example",
                "password": password,
                "roles": [{"name": role}],
            }
            admin.request("POST", "/auth/fab/v1/users", json=user)
    say(f"users created over the API: {', '.join(USERS)}")
    return password


def _ledger(project: Project, query: str) -> str:
    command = ["exec", "-T", "database", "psql", "--host", "/run/database", "--username", "postgres"]
    return project(*command, "--dbname", "ledger", "-Atc", query).strip()


def _phase(project: Project, run_id: str) -> str:
    # The id is this test's own; quotes are doubled all the same.
    return _ledger(project, f"SELECT progress->>'phase' FROM deployments WHERE run_id = '{_quoted(run_id)}'")


def _detail(project: Project, run_id: str) -> str:
    return _ledger(project, f"SELECT outcome, detail FROM deployments WHERE run_id = '{_quoted(run_id)}'")


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def live_release(project: Project) -> str:
    """What staging's load balancer answers with, asked from outside of all containers."""
    name, address = "staging.sebenza.com", f"{project.subnet}.51"
    command = ["curl", "--silent", "--show-error", "--fail", "--max-time", "10", "--noproxy", "*"]
    command += ["--cacert", str(project.handover_dir / "trust/ca.pem")]
    command += ["--resolve", f"{name}:{HTTPS_PORT}:{address}", f"https://{name}:{HTTPS_PORT}/version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expect(done.returncode == 0, f"staging's load balancer does not answer: {done.stderr.strip()}")
    return str(json.loads(done.stdout)["release_id"])


def _await(condition: Callable[[], bool], what: str) -> None:
    until(condition, what, PATIENCE_SECONDS, poll_seconds=0.5, error=ComposeError)
