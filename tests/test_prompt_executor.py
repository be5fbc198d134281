from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import SimpleQueue
from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import Connection, create_engine, text

from sebenza_ops.prompt_executor import LOOK, PromptLocalExecutor

RUN = "INSERT INTO dag_run VALUES (:dag, 'r', :state, :decided)"
TASK = "INSERT INTO task_instance VALUES (:dag, 'r', :state, :ended)"
COLUMNS = {
    "dag_run": ("dag_id", "run_id", "state", "last_scheduling_decision"),
    "task_instance": ("dag_id", "run_id", "state", "end_date"),
}


@pytest.fixture
def metadata() -> Iterator[Connection]:
    """The columns of Airflow's tables that are looked at."""
    with create_engine("sqlite://").connect() as connection:
        for table, columns in COLUMNS.items():
            connection.execute(text(f"CREATE TABLE {table} ({', '.join(columns)})"))
        yield connection


def test_airflow_has_these_columns() -> None:
    for model in (DagRun, TaskInstance):
        table: Any = model.__table__
        assert set(COLUMNS[table.name]) <= set(table.columns.keys())


@pytest.mark.parametrize(
    ("runs", "tasks", "expected"),
    [
        ([], [], (False, False)),
        ([("queued", None)], [], (False, True)),
        ([("running", "12:00:00")], [("running", None)], (True, False)),
        ([("running", "12:00:00")], [("scheduled", None)], (True, True)),
        ([("running", "12:00:00")], [("success", "11:59:59")], (True, False)),
        ([("running", "12:00:00")], [("success", "12:00:01")], (True, True)),
        ([("success", "12:00:00")], [("success", "12:00:01")], (False, False)),
    ],
    ids=["nothing", "queued-run", "at-work", "scheduled-task", "seen-end", "new-end", "ended-run"],
)
def test_what_the_scheduler_is_woken_for(
    metadata: Connection,
    runs: list[tuple[str, str | None]],
    tasks: list[tuple[str, str | None]],
    expected: tuple[bool, bool],
) -> None:
    for state, decided in runs:
        metadata.execute(text(RUN), {"dag": "d", "state": state, "decided": decided})
    for state, ended in tasks:
        metadata.execute(text(TASK), {"dag": "d", "state": state, "ended": ended})

    assert tuple(bool(value) for value in metadata.execute(LOOK).one()) == expected


def test_a_worker_that_tells_of_a_tasks_end_wakes_at_once() -> None:
    """There is no metadata database here: a look at one would fail."""
    executor = PromptLocalExecutor(parallelism=1)
    results: Any = SimpleQueue()
    executor.result_queue = results
    results.put("a task has ended")

    executor.rest()

    assert results.get() == "a task has ended"
