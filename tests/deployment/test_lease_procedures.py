"""Freezing and handing a lease back, pressed as people press them: in Airflow, on the lab's staging."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from lab import paths
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from sebenza_ops.ledger import Holder, Ledger

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(300)]

DEPLOY = "deploy_blue_green.staging"
# A run of its own for each session: the ledger outlives it, and knows that later changes superseded an old one.
STUCK = Holder(DEPLOY, f"manual__stuck_{uuid4().hex[:8]}", "thandi")
REASON = "the worker's machine is gone"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client


@pytest.fixture
def ledger(operator: AirflowClient) -> Iterator[Ledger]:
    found = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")
    yield found
    found.leases.lift_freeze("staging", "the test is over", "tests")
    lease = found.leases.current("staging")
    if lease is not None:
        found.leases.release("staging", lease.token, "the test is over", "tests")


def ended(client: AirflowClient, dag_id: str, conf: dict[str, Any]) -> tuple[str, dict[str, str | None], str]:
    """A run's state, its tasks' states, and its id."""
    run_id = client.trigger(dag_id, conf)
    state = client.await_state(dag_id, run_id, timeout_seconds=240)
    return state, {task.task_id: task.state for task in client.task_instances(dag_id, run_id)}, run_id


def test_a_frozen_environment_refuses_changes_until_it_is_lifted(operator: AirflowClient, ledger: Ledger) -> None:
    until = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds")
    assert ended(operator, "freeze.staging", {"until": until, "reason": "stock-taking until noon"})[0] == "success"

    state, tasks, run_id = ended(operator, DEPLOY, {"version": "v1.1.0"})
    assert (state, tasks["acquire_lease"]) == ("failed", "failed")
    log = str(operator.logs(DEPLOY, run_id, "acquire_lease"))
    assert "staging is frozen by operator" in log
    assert "stock-taking until noon" in log

    assert ended(operator, DEPLOY, {"version": "v1.1.0", "plan_only": True})[0] == "success", "looking was refused"

    assert ended(operator, "lift_freeze.staging", {"reason": "stock-taking is over"})[0] == "success"
    assert ledger.leases.current_freeze("staging") is None
    _, tasks, _ = ended(operator, "lift_freeze.staging", {"reason": "stock-taking is over"})
    assert tasks == {"lift_freeze": "skipped"}


def ask(client: AirflowClient) -> str:
    """Start release_lease and wait until it asks; returns the run's id."""
    run_id = client.trigger("release_lease.staging", {"reason": REASON})
    client.await_state("release_lease.staging", run_id, {"awaiting_input"}, task_id="decide", timeout_seconds=90)
    return run_id


def test_a_stuck_lease_is_handed_back_after_a_look(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger, estate: Any
) -> None:
    stuck = ledger.leases.acquire("staging", STUCK, "deploy v1.1.0", 3600)
    run_id = ask(operator)
    body = operator.hitl_details("release_lease.staging", run_id, "decide")["body"]
    for part in ("thandi", STUCK.run_id, f"token {stuck.token}", "all load balancers send to", REASON):
        assert part in body

    with airflow.client("approver") as approver:
        approver.answer("release_lease.staging", run_id, "decide", ["Hand it back"])

    assert operator.await_state("release_lease.staging", run_id, timeout_seconds=60) == "success"
    assert ledger.leases.current("staging") is None
    assert f"hosts refuse token {stuck.token} now" in operator.xcom("release_lease.staging", run_id, "hand_back")
    seen = (estate.root("staging") / "var/lib/sebenza/fence-staging").read_text()
    assert int(seen.split()[0]) > stuck.token
    assert ledger.audit.entries(environment="staging", action="decision.approved")[0].actor == "approver"
    # Its holder, cleared, goes on under a new token: it was not superseded.
    assert ledger.leases.acquire("staging", STUCK, "deploy v1.1.0", 60).token > stuck.token


@pytest.mark.long
def test_a_rejection_leaves_the_lease_and_is_no_success(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    stuck = ledger.leases.acquire("staging", STUCK, "deploy v1.1.0", 3600)
    run_id = ask(operator)

    with airflow.client("approver") as approver:
        approver.answer("release_lease.staging", run_id, "decide", ["Reject"])

    assert operator.await_state("release_lease.staging", run_id, timeout_seconds=60) == "failed"
    held = ledger.leases.current("staging")
    assert held is not None
    assert held.token == stuck.token
    log = str(operator.logs("release_lease.staging", run_id, "decide"))
    assert "approver has rejected" in log


@pytest.mark.long
def test_a_lease_that_has_changed_since_the_question_is_not_ended(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    stuck = ledger.leases.acquire("staging", STUCK, "deploy v1.1.0", 3600)
    run_id = ask(operator)
    alive = ledger.leases.acquire("staging", STUCK, "deploy v1.1.0", 3600, stuck.token)

    with airflow.client("approver") as approver:
        approver.answer("release_lease.staging", run_id, "decide", ["Hand it back"])

    assert operator.await_state("release_lease.staging", run_id, timeout_seconds=60) == "failed"
    held = ledger.leases.current("staging")
    assert held is not None
    assert held.token == alive.token


def test_a_free_lease_is_nothing_to_hand_back(operator: AirflowClient, ledger: Ledger) -> None:
    state, tasks, _ = ended(operator, "release_lease.staging", {"reason": REASON})
    assert (state, set(tasks.values())) == ("success", {"skipped"})
