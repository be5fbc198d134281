"""Schedules in tests: one that never ran begins at once when it is switched on, with the run that was due last."""

from __future__ import annotations

from lab.airflow.client import AirflowClient
from lab.waiting import until


def switched_on(client: AirflowClient, admin: AirflowClient, dag_id: str) -> None:
    """Switch a schedule on, and wait until all that has begun by it has ended."""
    never_ran = not client.dag_runs(dag_id)
    admin.set_paused(dag_id, False)
    if never_ran:
        until(lambda: bool(client.dag_runs(dag_id)), f"the schedule of {dag_id} has begun", 60)
    await_idle(client, dag_id)


def await_idle(client: AirflowClient, dag_id: str) -> None:
    """Wait until every run has ended."""
    for run in client.dag_runs(dag_id):
        client.await_state(dag_id, run["dag_run_id"], timeout_seconds=240)
