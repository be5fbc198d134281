"""What DAGs and Airflow call at a run's end, with the objects that Airflow hands over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError
from sebenza_ops.ledger import Ledger
from sebenza_ops.notify.callbacks import on_procedure_failure, on_procedure_success, on_task_failure
from tests.notify.conftest import RunningMailbox

DAG_ID, RUN_ID = "deploy_blue_green.production", "manual__1"


class RanTask:
    """A task instance as callbacks see it; it answers for the supervisor, which only runs inside Airflow."""

    def __init__(self, states: Mapping[str, str] | None, task_id: str = "switch", map_index: int = -1) -> None:
        self.task_id, self.map_index, self.try_number = task_id, map_index, 1
        self._states = states

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, Any]:
        if self._states is None:
            raise RuntimeError("no supervisor")
        return {run_ids[0]: self._states}


def _context(states: Mapping[str, str] | None, clear_number: int = 0, **more: Any) -> dict[str, Any]:
    dag_run = DagRun(
        dag_id=DAG_ID,
        run_id=RUN_ID,
        logical_date=None,
        data_interval_start=None,
        data_interval_end=None,
        start_date=None,
        end_date=None,
        run_after=datetime(2026, 3, 1, 2, 0, tzinfo=UTC),
        run_type=DagRunType.MANUAL,
        state=DagRunState.FAILED,
        consumed_asset_events=[],
        partition_key=None,
        clear_number=clear_number,
        conf={"version": "v1.1.0"},
        triggering_user_name="thandi",
    )
    return {"dag_run": dag_run, "task_instance": RanTask(states), "run_id": RUN_ID, "reason": "task_failure", **more}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    ledger = Ledger.from_connection()
    ledger.migrate()
    return ledger


def test_error_of_a_task_reaches_people(ledger: Ledger, mailbox: RunningMailbox) -> None:
    on_task_failure(_context(None, exception=TimeoutError("lb2 did not answer in 5 s")))
    on_procedure_failure(_context({"switch": "failed", "record": "upstream_failed"}))
    [slack] = mailbox.messages("slack")
    assert "switch: TimeoutError: lb2 did not answer in 5 s" in slack["text"]
    assert "record" not in slack["text"]
    assert ledger.outbox.pending() == []


def test_refused_run_says_why_and_wakes_nobody_up(ledger: Ledger, mailbox: RunningMailbox) -> None:
    try:
        try:
            raise ChangeRefusedError("the lease of production is held by manual__0")
        except ChangeRefusedError as refusal:
            raise AirflowFailException(str(refusal)) from refusal
    except AirflowFailException as error:
        on_task_failure(_context(None, exception=error))
    on_procedure_failure(_context({"switch": "failed"}))
    [slack] = mailbox.messages("slack")
    assert "was refused" in slack["text"]
    assert "switch: ChangeRefusedError: the lease of production is held by manual__0" in slack["text"]
    assert mailbox.messages("pagerduty") == []


def test_an_error_that_was_raised_from_itself_is_told(ledger: Ledger) -> None:
    error = TimeoutError("lb2 did not answer in 5 s")
    error.__cause__ = error
    on_task_failure(_context(None, exception=error))
    [entry] = ledger.evidence.entries(DAG_ID, RUN_ID)
    assert entry.payload["error_chain"] == ["TimeoutError"]


def test_mapped_task_is_named_with_its_index(ledger: Ledger) -> None:
    context = _context(None, exception=None)
    context["task_instance"] = RanTask(None, "deploy", map_index=1)
    on_task_failure(context)
    [entry] = ledger.evidence.entries(DAG_ID, RUN_ID)
    assert (entry.payload["task"], entry.payload["error"]) == ("deploy[1]", "the task was ended from outside")


def test_failure_is_told_even_when_the_task_states_are_unknown(ledger: Ledger, mailbox: RunningMailbox) -> None:
    on_procedure_failure(_context(None))
    assert "switch: no error was recorded" in mailbox.messages("slack")[0]["text"]


def test_failure_twice_is_told_once_and_a_cleared_run_again(ledger: Ledger, mailbox: RunningMailbox) -> None:
    for clear_number in (0, 0, 1):
        on_procedure_failure(_context({"switch": "failed"}, clear_number))
    assert [len(mailbox.messages(channel)) for channel in ("slack", "pagerduty", "email")] == [2, 2, 2]
    assert len(mailbox.incidents()) == 1


def test_success_of_the_cleared_run_resolves(ledger: Ledger, mailbox: RunningMailbox) -> None:
    on_procedure_failure(_context({"switch": "failed"}))
    on_procedure_success(_context({"switch": "success"}, clear_number=1))
    [incident] = mailbox.incidents()
    assert incident["status"] == "resolved"


@pytest.mark.parametrize("states", [None, {"switch": "failed"}])
def test_success_without_certainty_resolves_nothing(
    ledger: Ledger, mailbox: RunningMailbox, states: Mapping[str, str] | None
) -> None:
    on_procedure_failure(_context({"switch": "failed"}))
    on_procedure_success(_context(states, clear_number=1))
    [incident] = mailbox.incidents()
    assert incident["status"] == "triggered"


def test_callback_without_its_run_still_delivers_what_waits(ledger: Ledger, mailbox: RunningMailbox) -> None:
    mailbox.fail_next("slack", 500)
    on_procedure_failure(_context({"switch": "failed"}))
    on_procedure_failure({"run_id": RUN_ID, "reason": "timed_out"})
    [waiting] = ledger.outbox.pending()
    assert waiting.attempts == 1


def test_ledger_down_people_told(mailbox: RunningMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    down = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "schema": "ledger"}
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", json.dumps(down))
    monkeypatch.delenv("SEBENZA_ENVIRONMENTS", raising=False)
    on_task_failure(_context(None, exception=ValueError("boom")))
    on_procedure_failure(_context({"switch": "failed"}))
    assert "the ledger can't be reached" in mailbox.messages("slack")[0]["text"]
    assert len(mailbox.messages("pagerduty")) == 1
