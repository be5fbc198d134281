"""What docs/installation.md tells to do with a running installation: more workers, a backup, and going back to it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lab import paths
from lab.airflow.client import AirflowClient
from lab.compose.deployment import DEPLOY, WORKER, live_release
from lab.compose.project import DIRECTORY, ComposeError, Project
from lab.compose.systemd import expect

DATABASES: Final = ("airflow", "ledger")
# One row of each that users would miss.
HISTORY: Final = {"airflow": "dag_run", "ledger": "deployments"}
ON_DATABASE: Final = ("--host", "/run/database", "--username", "postgres")
NEXT_VERSION: Final = "v1.2.0"


def keep_up(project: Project, password: str, services: list[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Scale a worker, back both databases up, lose what is in them, restore them, and plan a deployment afterwards.

    Args:
        project: The installation, with a deployment behind it.
        password: Of the user "operator".
        services: What runs, the lab left out.
        say: Told about progress.

    Raises ComposeError and the client's errors.
    """
    project("up", "--detach", "--no-build", "--no-recreate", "--scale", f"{WORKER}=2", WORKER)
    workers = project("ps", "--quiet", WORKER).split()
    expect(len(workers) == 2, f"{len(workers)} containers of {WORKER} instead of 2")
    say(f"{WORKER} runs twice")
    before = {name: _rows(project, name) for name in DATABASES}
    expect(all(before.values()), f"nothing to lose: {before}")
    dumps = {name: _dump(project, name) for name in DATABASES}
    for name in DATABASES:
        _psql(project, name, f"TRUNCATE {HISTORY[name]} CASCADE")
    expect(not any(_rows(project, name) for name in DATABASES), "history was not lost")
    # The lab is the estate: it does not stop.
    project("stop", "--timeout", "60", *services)
    project("up", "--detach", "--no-build", "database")
    project.await_healthy("database", say=say)
    for name, dump in dumps.items():
        _restore(project, name, dump)
    project("up", "--detach", "--no-build", *services)
    project.await_healthy(*services, say=say)
    after = {name: _rows(project, name) for name in DATABASES}
    # Scheduled procedures go on at once.
    expect(all(after[name] >= before[name] for name in DATABASES), f"not all is back: {after}, it was {before}")
    say(f"both databases restored from their dumps: {before} rows of {HISTORY}")
    live = live_release(project)
    with AirflowClient(f"http://127.0.0.1:{project.port}", "operator", password) as operator:
        run_id = operator.trigger(DEPLOY, {"version": NEXT_VERSION, "plan_only": True})
        state = operator.await_state(DEPLOY, run_id, timeout_seconds=300)
    expect(state == "success", f"after the restore a plan of {DEPLOY} ended as {state}")
    expect(live_release(project) == live, "a plan has changed what is live")
    say(f"{DEPLOY} plans {NEXT_VERSION}; {live} is live as before")
    return {"rows_restored": before}


def _rows(project: Project, name: str) -> int:
    return int(_psql(project, name, f"SELECT count(*) FROM {HISTORY[name]}"))


def _psql(project: Project, name: str, statement: str) -> str:
    command = ["exec", "-T", "database", "psql", *ON_DATABASE, "--dbname", name, "-v", "ON_ERROR_STOP=1"]
    return project(*command, "-Atqc", statement).strip()


def _dump(project: Project, name: str) -> Path:
    file = DIRECTORY / f"{name}.dump"
    with file.open("wb") as into:
        _piped(
            project.command("exec", "-T", "database", "pg_dump", *ON_DATABASE, "--format", "custom", name),
            project,
            stdout=into,
        )
    return file


def _restore(project: Project, name: str, dump: Path) -> None:
    command = ["exec", "-T", "database", "pg_restore", *ON_DATABASE, "--clean", "--if-exists", "--exit-on-error"]
    with dump.open("rb") as source:
        _piped(project.command(*command, "--dbname", name), project, stdin=source)


def _piped(command: list[str], project: Project, **streams: Any) -> None:
    done = subprocess.run(
        command,
        cwd=paths.CHECKOUT,
        env=project.environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **streams,
    )
    if done.returncode != 0:
        raise ComposeError(f"{' '.join(command)} failed: {done.stderr.strip()[-1000:]}")
