"""Answers that Airflow loses on the way to the task that asked, and answers that belong to another question."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops import decisions
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.ledger import Ledger

ASKED, RETRIES = "asked", 5


class Asking:
    """One task instance, and what Airflow keeps of the answer."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer: Any
        self.ledger = ledger
        self.forget()
        self.operator = HumanDecisionOperator(
            task_id="decide",
            environment="staging",
            subject="Restore the database?",
            body="12 rows would be lost.",
            approve="Restore",
            response_timeout=timedelta(minutes=5),
        )
        monkeypatch.setattr(decisions, "get_hitl_detail_content_detail", lambda ti_id: self.answer)
        monkeypatch.setattr(HITLOperator, "execute", lambda *_: ASKED)
        monkeypatch.setattr(HumanDecisionOperator, "_tell", lambda *_: None)

    def forget(self) -> None:
        """The question is parked anew, without an answer."""
        self.answer = SimpleNamespace(response_received=False, chosen_options=[])

    def answered(self, option: str = "Restore") -> None:
        """Somebody chooses."""
        self.answer = SimpleNamespace(
            response_received=True,
            chosen_options=[option],
            params_input={},
            responded_at=datetime.now(UTC),
            responded_by_user=SimpleNamespace(id="7", name="sipho"),
        )

    def context(self, max_tries: int = RETRIES) -> Any:
        run = SimpleNamespace(dag_id="rollback.staging", run_id="manual__1", triggering_user_name="thandi", conf={})
        return {"ti": SimpleNamespace(id="1", max_tries=max_tries), "dag_run": run}

    def execute(self, max_tries: int = RETRIES) -> Any:
        """A try of the task, from its beginning."""
        return self.operator.execute(self.context(max_tries))


@pytest.fixture
def asking(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Asking:
    monkeypatch.setenv("SEBENZA_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.setenv("AIRFLOW_CONN_OPS_LEDGER", f'{{"conn_type": "sqlite", "host": "{tmp_path}/ledger.db"}}')
    return Asking(Ledger.from_connection(), monkeypatch)


def test_an_answer_that_was_lost_on_its_way_is_taken_by_the_next_try(asking: Asking) -> None:
    assert asking.execute() == ASKED
    asking.answered("Restore")

    assert asking.execute()["approved_by"] == "sipho"


def test_an_approval_stays_one_though_the_try_that_took_it_was_failed_and_airflow_forgot_the_answer(
    asking: Asking,
) -> None:
    assert asking.execute() == ASKED
    asking.answered("Restore")
    taken = asking.execute()
    asking.forget()

    assert asking.execute() == taken
    assert [entry.actor for entry in asking.ledger.audit.entries(action="decision.approved")] == ["sipho"]


def test_a_rejection_stays_one_though_the_try_that_took_it_was_failed(asking: Asking) -> None:
    assert asking.execute() == ASKED
    asking.answered("Reject")
    for _ in range(2):
        with pytest.raises(AirflowFailException, match="sipho has rejected"):
            asking.execute()
        asking.forget()


def test_a_cleared_task_asks_anew_though_an_answer_is_there(asking: Asking) -> None:
    assert asking.execute() == ASKED
    asking.answered()
    assert asking.execute()["approved_by"] == "sipho"

    assert asking.execute(max_tries=1 + 2 * RETRIES) == ASKED, "an answer to an older question was taken"


def test_an_answer_is_not_looked_for_before_anything_was_asked(asking: Asking) -> None:
    asking.answered()
    assert asking.execute() == ASKED
