"""The listener with Airflow's own models, in a database in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from airflow.models import import_all_models
from airflow.models.base import Base
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import Session

from sebenza_ops.ledger import Ledger
from sebenza_ops.notify.listener import on_dag_run_failed, on_dag_run_success
from tests.notify.conftest import RunningMailbox

DAG_ID = "deploy_blue_green.production"
BY_HAND = "Dag Run's state was manually set to `failed`."


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    ledger = Ledger.from_connection()
    ledger.migrate()
    return ledger


@pytest.fixture
def metadata() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    import_all_models()
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def _dag_run(session: Session, run_id: str, *, clear_number: int = 0, notified: bool = True, **tasks: str) -> Any:
    dag_run = DagRun(dag_id=DAG_ID, run_id=run_id, run_type="manual")
    dag_run.clear_number = clear_number
    dag_run.dag = SimpleNamespace(has_on_failure_callback=notified, partial=False)  # type: ignore[assignment]
    session.add(dag_run)
    session.flush()
    for task_id, state in tasks.items():
        values = {
            "id": uuid4(),
            "dag_id": DAG_ID,
            "run_id": run_id,
            "task_id": task_id,
            "map_index": -1,
            "state": state,
        }
        values |= {"pool": "default_pool", "pool_slots": 1, "try_number": 1, "max_tries": 0, "dag_version_id": uuid4()}
        session.execute(insert(TaskInstance).values(values))
    return dag_run


def _queued(ledger: Ledger) -> set[tuple[str, str]]:
    return {(item.message.run_id, item.message.kind) for item in ledger.outbox.pending()}


def test_failure_in_the_scheduler_is_only_queued(ledger: Ledger, metadata: Session, mailbox: RunningMailbox) -> None:
    dag_run = _dag_run(metadata, "r1", switch="failed", release_lease="success")
    on_dag_run_failed(dag_run, "task_failure")
    assert _queued(ledger) == {("r1", "failure")}
    assert "switch: no error" in ledger.outbox.pending()[0].message.body
    assert mailbox.messages() == []


def test_mark_by_hand_is_delivered_without_a_callback(
    ledger: Ledger, metadata: Session, mailbox: RunningMailbox
) -> None:
    on_dag_run_failed(_dag_run(metadata, "r1", switch="skipped"), BY_HAND)
    page = mailbox.await_message(lambda message: True, timeout_seconds=30, channel="pagerduty")
    assert "marked as failed by hand" in page["payload"]["payload"]["custom_details"]["what_failed"]


def test_run_marked_failed_that_ends_as_success_resolves_nothing(ledger: Ledger, metadata: Session) -> None:
    dag_run = _dag_run(metadata, "r1", switch="skipped", release_lease="success")
    on_dag_run_failed(dag_run, "task_failure")
    on_dag_run_success(dag_run, "success")
    assert _queued(ledger) == {("r1", "failure")}


def test_success_resolves(ledger: Ledger, metadata: Session) -> None:
    on_dag_run_failed(_dag_run(metadata, "r1", switch="failed"), "task_failure")
    on_dag_run_success(_dag_run(metadata, "r2", switch="success"), "success")
    assert _queued(ledger) == {("r1", "failure"), ("r1", "resolved"), ("r2", "success")}


def test_success_with_a_failed_task_is_a_failure(ledger: Ledger, metadata: Session) -> None:
    on_dag_run_success(_dag_run(metadata, "r1", switch="failed", release_lease="success"), "success")
    assert _queued(ledger) == {("r1", "failure")}


def test_success_by_hand_proves_nothing(ledger: Ledger, metadata: Session) -> None:
    on_dag_run_failed(_dag_run(metadata, "r1", switch="failed"), "task_failure")
    on_dag_run_success(_dag_run(metadata, "r2"), "Dag Run's state was manually set to `success`.")
    assert _queued(ledger) == {("r1", "failure")}


def test_other_dags_are_not_our_business(ledger: Ledger, metadata: Session) -> None:
    on_dag_run_failed(_dag_run(metadata, "r1", notified=False, switch="failed"), "task_failure")
    assert _queued(ledger) == set()


def test_lost_ledger_does_not_disturb_the_scheduler(
    metadata: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    down = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "schema": "ledger"}
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", json.dumps(down))
    on_dag_run_failed(_dag_run(metadata, "r1", switch="failed"), "task_failure")
    on_dag_run_success(_dag_run(metadata, "r2", switch="success"), "success")
    assert "can't keep the failure" in caplog.text
    assert "can't keep the success" in caplog.text
