"""What holds the environment while people decide about the database, and what the run says at its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.decisions import DecisionMissingError, DecisionRejectedError, HumanDecisionOperator
from sebenza_ops.deployment.database_exchange import conclusion
from sebenza_ops.deployment.database_rollback_operators import (
    ApproveDatabaseRollbackOperator,
    BackupBeforeDatabaseRollbackOperator,
)
from sebenza_ops.deployment.database_rollback_steps import progress_of, save_progress
from sebenza_ops.ledger import Holder, Ledger
from tests.deployment.estate import OLD, production

HOLDER = Holder("rollback.production", "manual__1", "thandi")
OTHER = Holder("deploy_blue_green.production", "manual__2", "sipho")
CONTEXT: Any = {"params": {}, "dag_run": SimpleNamespace(conf={})}
NAMES = ["shop_rb_1", "shop_before_1"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChangeRun:
    """A rollback that holds production's lease, has restored a copy beside, and is about to ask."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    found = ChangeRun(ledger, production(), HOLDER)
    monkeypatch.setattr(ChangeRun, "from_context", lambda *_, **__: ChangeRun(ledger, production(), HOLDER))
    ledger.deployments.start("production", HOLDER.dag_id, HOLDER.run_id, "thandi", OLD, OLD, "rollback")
    found.take_over("rollback", "orders are lost", 120, 0)
    save_progress(found, state="restored", names=NAMES)
    return found


def question() -> ApproveDatabaseRollbackOperator:
    return ApproveDatabaseRollbackOperator(
        task_id="approve",
        environment="production",
        subject="Back?",
        body="…",
        response_timeout=timedelta(hours=4),
        excluded={"thandi": "requester"},
    )


def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HumanDecisionOperator, "execute", lambda *_: None)
    question().execute(CONTEXT)


def test_people_decide_under_a_reservation_that_a_freeze_does_not_stop(
    run: ChangeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = run.ledger.leases
    leases.freeze("production", OTHER, "stock-taking until noon", datetime.now(UTC) + timedelta(hours=1))
    asked(monkeypatch)
    asked(monkeypatch)  # tried again
    assert leases.current("production") is None
    reserved = leases.current_reservation("production")
    assert reserved is not None
    assert reserved.expires_at - reserved.reserved_at > timedelta(hours=4)
    with pytest.raises(ChangeRefusedError, match=r"rollback\.production"):
        ChangeRun(run.ledger, run.environment, OTHER).acquire("deploy v9", 120, 0)
    before = run.fence.token
    step = BackupBeforeDatabaseRollbackOperator(task_id="backup", environment="production")
    context: Any = {**CONTEXT, "params": {"to": OLD}}
    assert step.begin(context).fence.token > before


def test_a_change_that_came_meanwhile_ends_it(run: ChangeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(monkeypatch)
    run.ledger.leases.take_over("production", OTHER, "an emergency", 600, 0)
    with pytest.raises(AirflowFailException, match="traffic stays where it is"):
        asked(monkeypatch)
    assert progress_of(run)["state"] == "not approved"


@pytest.mark.parametrize(
    ("cause", "state"),
    [
        (DecisionRejectedError("naledi has rejected it: too much is lost"), "rejected"),
        (DecisionMissingError("nobody has answered"), "not approved"),
    ],
)
def test_a_no_is_kept_for_the_summary(
    run: ChangeRun, monkeypatch: pytest.MonkeyPatch, cause: Exception, state: str
) -> None:
    def refuse(*_: Any) -> None:
        raise AirflowFailException(str(cause)) from cause

    monkeypatch.setattr(HumanDecisionOperator, "execute_complete", refuse)
    with pytest.raises(AirflowFailException):
        question().execute_complete(CONTEXT, {})
    assert progress_of(run)["state"] == state
    text = conclusion(run, OLD, ["approve"])
    assert f"STAYS as it is ({cause})" in text
    assert f"with `to` {OLD} and `database`" in text


def test_the_requester_may_not_approve(run: ChangeRun) -> None:
    assert "requester" in str(question().refusal(CONTEXT, "Thandi@sebenza.com"))
    assert question().refusal(CONTEXT, "naledi") is None
    assert issubclass(ApproveDatabaseRollbackOperator, HITLOperator)


@pytest.mark.parametrize(
    ("known", "parts"),
    [
        ({"state": "exchanged", "verified": True, "lost": "orders 2"}, ("brought back", "shop_before_1", "orders 2")),
        ({"state": "exchanged"}, ("brought back", "NOT verified")),
        ({"state": "exchanging"}, ("STAYS as it is (swap_database did not succeed", "Alternatives")),
        ({"state": "refused", "reason": "no backup"}, ("STAYS as it is (no backup)", "point in time")),
        ({"state": None}, ("was not touched",)),
    ],
)
def test_the_summary_says_how_the_database_stands(
    run: ChangeRun, known: dict[str, Any], parts: tuple[str, ...]
) -> None:
    save_progress(run, **known)
    text = conclusion(run, OLD, ["swap_database"])
    for part in parts:
        assert part in text
