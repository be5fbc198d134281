"""What happens to the lease while people decide about contract migrations, on a real ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.deployment.contract_operators import ApplyContractOperator, PlanContractOperator
from sebenza_ops.ledger import Holder, LeaseKind, Ledger
from tests.deployment.estate import production

HOLDER = Holder("migrate_contract.production", "manual__1", "thandi")
OTHER = Holder("deploy_blue_green.production", "manual__2", "sipho")
CONTEXT: Any = {"params": {}, "dag_run": SimpleNamespace(conf={})}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChangeRun:
    """A run on production, which asks for approval, that has planned and now waits for people."""
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    found = ChangeRun(ledger, production(), HOLDER)
    monkeypatch.setattr(ChangeRun, "from_context", lambda *_, **__: ChangeRun(ledger, production(), HOLDER))
    found.acquire("contract migrations", 120, 0)
    PlanContractOperator(task_id="plan_contract", environment="production")._reserve(found, CONTEXT)
    return found


def begin() -> ChangeRun:
    return ApplyContractOperator(task_id="apply_contract", environment="production", plan={}).begin(CONTEXT)


def test_people_decide_under_a_reservation_that_outlasts_their_time(run: ChangeRun) -> None:
    leases = run.ledger.leases
    assert leases.current("production") is None
    reserved = leases.current_reservation("production")
    assert reserved is not None
    approvals = run.environment.policies.approvals
    assert approvals is not None
    assert reserved.expires_at - reserved.reserved_at > timedelta(seconds=approvals.timeout_seconds)
    other = ChangeRun(run.ledger, run.environment, OTHER)
    with pytest.raises(ChangeRefusedError, match=r"migrate_contract\.production"):
        other.acquire("deploy v9", 120, 0)
    assert other.acquire("stop the old color", 120, 0, LeaseKind.HOUSEKEEPING).holder == OTHER


def test_after_the_answer_the_lease_is_taken_with_a_higher_token(run: ChangeRun) -> None:
    before = run.fence.token
    assert begin().fence.token > before
    assert run.ledger.leases.current_reservation("production") is None
    # The next attempt of the step, or the next step, goes on under the run's own lease.
    assert begin().fence.token > before


def test_a_freeze_that_came_meanwhile_counts(run: ChangeRun) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    run.ledger.leases.freeze("production", OTHER, "stock-taking until noon", until)
    with pytest.raises(AirflowFailException, match="stock-taking"):
        begin()


def test_a_change_that_came_meanwhile_is_not_overrun(run: ChangeRun) -> None:
    run.ledger.leases.take_over("production", OTHER, "an emergency", 600, 0)
    with pytest.raises(AirflowFailException, match=r"deploy_blue_green\.production"):
        begin()
