"""What Airflow knows about a run, read in the API server, where its metadata database may be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sebenza_ops.evidence.summary import RunHeader, environment_name, procedure_name


@dataclass(frozen=True, slots=True)
class AirflowRun:
    """A DAG run as Airflow has it; `finished_at` is None while it runs or waits."""

    dag_id: str
    run_id: str
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    requested_by: str | None
    clear_number: int = 0
    conf: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether Airflow has finished with it."""
        return self.state in ("success", "failed")


def find_runs(runs: Collection[tuple[str, str]]) -> dict[tuple[str, str], AirflowRun]:
    """Airflow's record of each of the runs (dag_id, run_id) that it still has."""
    if not runs:
        return {}
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select, tuple_

    query = select(DagRun).where(tuple_(DagRun.dag_id, DagRun.run_id).in_(list(runs)))
    with create_session() as session:
        return {
            (row.dag_id, row.run_id): AirflowRun(
                dag_id=row.dag_id,
                run_id=row.run_id,
                state=str(row.state),
                started_at=row.start_date,
                finished_at=row.end_date,
                requested_by=row.triggering_user_name,
                clear_number=row.clear_number or 0,
                conf=row.conf or {},
            )
            for row in session.scalars(query)
        }


def find_run(dag_id: str, run_id: str) -> AirflowRun | None:
    """Airflow's record of a run, None when it has none (deleted, or never was)."""
    return find_runs({(dag_id, run_id)}).get((dag_id, run_id))


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a task of a run has left under a key."""

    task_id: str
    key: str
    value: Any


def find_results(dag_id: str, run_id: str, keys: Collection[str]) -> list[TaskResult]:
    """What the tasks of a run have left under any of the keys, in the order in which they did."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    query = (
        select(XComModel)
        .where(XComModel.dag_id == dag_id, XComModel.run_id == run_id, XComModel.key.in_(list(keys)))
        .order_by(XComModel.timestamp)
    )
    with create_session() as session:
        rows = [(row.task_id, row.key, XComModel.deserialize_value(row)) for row in session.scalars(query)]
    return [TaskResult(*row) for row in rows]


def header_of(
    dag_id: str, run_id: str, run: AirflowRun | None, rendered_at: datetime, run_url: str | None
) -> RunHeader:
    """The report's header for a run as Airflow has it now."""
    return RunHeader(
        dag_id=dag_id,
        run_id=run_id,
        environment=environment_name(dag_id),
        procedure=procedure_name(dag_id),
        rendered_at=rendered_at,
        requested_by=run.requested_by if run else None,
        started_at=run.started_at if run else None,
        finished_at=run.finished_at if run and run.is_over else None,
        run_state=run.state if run else None,
        run_url=run_url,
    )
