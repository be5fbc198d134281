"""The way in of a production deployment in Airflow: gates, staging first, and a decision of somebody else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from lab import attest, checker, inventory, paths
from lab.airflow.client import AirflowClient, AirflowRefusedError
from lab.airflow.stack import LocalAirflow
from lab.chaos.inventory_file import changed_policy
from lab.releases import REPOSITORY, resolve
from lab.waiting import until
from sebenza_ops.evidence.facts import load
from sebenza_ops.ledger import Ledger, Outcome

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

DEPLOY = "deploy_blue_green.production"
REASON = "the benchmark's machine is down until Monday"


def await_tasks(client: AirflowClient, *, gated: bool) -> None:
    """Have Airflow read the DAG again, until it has its gates or no longer has them."""
    client.parse_again(DEPLOY)
    until(
        lambda: ("approve" in client.task_ids(DEPLOY)) is gated,
        f"{DEPLOY} is read anew, gates are {gated}",
        90,
        progress=lambda: f"it has the tasks {sorted(client.task_ids(DEPLOY))}",
        poll_seconds=1,
        error=AssertionError,
    )


@pytest.fixture(scope="module")
def admin(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """Somebody who may do everything, while production demands its gates and approval."""
    with airflow.client("admin") as client:
        inventory.set_gates(True)
        await_tasks(client, gated=True)
        with changed_policy("production", traffic="synthetic", bake_seconds=5):
            yield client
        inventory.set_gates(False)
        await_tasks(client, gated=False)
    estate.reset("production", "staging")


@pytest.fixture
def approver(airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("approver") as client:
        yield client


@pytest.fixture
def ledger(admin: AirflowClient, estate: Any) -> Iterator[Ledger]:
    """The lab's ledger, with v1.0.0 live in production and staging, and v1.1.0 attested."""
    estate.reset("production", "staging")
    attest.attest("v1.1.0")
    found = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")
    yield found
    for run in admin.dag_runs(DEPLOY):
        if run["state"] not in ("success", "failed"):
            # One that waits for an answer would go on in the middle of the next test.
            admin.mark_failed(DEPLOY, run["dag_run_id"])
            admin.await_state(DEPLOY, run["dag_run_id"], timeout_seconds=60)
    for name in ("production", "staging"):
        lease = found.leases.current(name)
        if lease is not None:
            found.leases.release(name, lease.token, "the test is over", "tests")
        found.leases.clear_reservation(name, "tests", "the test is over")


def live(environment: str = "production") -> str:
    verdict = checker.check(environment)
    assert not verdict.problems, verdict.problems
    return str(verdict.release).rpartition("-")[0]


def asked(client: AirflowClient, run_id: str, task_id: str = "approve") -> str:
    """Wait until the run asks; returns what it shows."""
    client.await_state(DEPLOY, run_id, {"awaiting_input"}, task_id=task_id, timeout_seconds=240)
    return str(client.hitl_details(DEPLOY, run_id, task_id)["body"])


def await_asked_again(client: AirflowClient, ledger: Ledger, run_id: str, task_id: str, why: str) -> None:
    """Wait until the last answer was not taken, for this reason, and the question is open again."""

    def not_taken() -> bool:
        entries = ledger.audit.entries(environment="production", action="decision.not_taken")
        return any(run_id in entry.subject and why in entry.detail["reason"] for entry in entries)

    until(
        not_taken,
        f"the audit has an answer to {task_id} that was not taken because {why!r}",
        60,
        poll_seconds=0.5,
        error=AssertionError,
    )
    asked(client, run_id, task_id)


def states(client: AirflowClient, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in client.task_instances(DEPLOY, run_id)}


def test_a_release_reaches_production_by_gates_staging_and_somebody_elses_approval(
    admin: AirflowClient, approver: AirflowClient, ledger: Ledger
) -> None:
    run_id = admin.trigger(DEPLOY, {"version": "v1.1.0"})
    body = asked(admin, run_id)

    for part in (resolve("v1.1.0"), "naledi", "delivered to", "passed", "v1.0.0-", "rollback.production"):
        assert part in body, body
    assert live("staging") == "v1.1.0"
    assert live() == "v1.0.0"
    told = [item.message for item in ledger.outbox.of_run(DEPLOY, run_id) if item.message.kind == "question"]
    assert {message.channel.partition(":")[0] for message in told} == {"slack", "email"}
    reservation = ledger.leases.current_reservation("production")
    assert reservation is not None
    assert reservation.holder.run_id == run_id
    assert ledger.leases.current("production") is None, "a lease is held while people think"
    with pytest.raises(AirflowRefusedError):
        approver.trigger(DEPLOY, {"version": "v1.1.0"})

    admin.answer(DEPLOY, run_id, "approve", ["Approve"])
    await_asked_again(
        admin, ledger, run_id, "approve", "is the requester of this change, and somebody else must approve it"
    )
    assert live() == "v1.0.0"

    approver.answer(DEPLOY, run_id, "approve", ["Approve"])

    assert admin.await_state(DEPLOY, run_id, timeout_seconds=240) == "success", states(admin, run_id)
    assert live() == "v1.1.0"
    assert ledger.deployments.get(DEPLOY, run_id).outcome is Outcome.SUCCEEDED
    gates = load(ledger, DEPLOY, run_id).gates
    assert {gate.verdict for gate in gates} == {"pass"}
    assert len({gate.name for gate in gates}) == 8
    backup = admin.xcom(DEPLOY, run_id, "backup_before_change")
    assert backup["size_bytes"] > 0
    assert ledger.audit.entries(environment="production", action="decision.approved")[0].actor == "approver"
    assert ledger.leases.current_reservation("production") is None

    again = admin.trigger(DEPLOY, {"version": "v1.1.0"})
    assert admin.await_state(DEPLOY, again, timeout_seconds=120) == "success"
    assert states(admin, again)["approve"] == "skipped", "what runs already needs no approval"


@pytest.mark.long
def test_a_rejection_is_explained_and_production_untouched(
    admin: AirflowClient, approver: AirflowClient, ledger: Ledger
) -> None:
    run_id = admin.trigger(DEPLOY, {"version": "v1.1.0"})
    asked(admin, run_id)

    approver.answer(DEPLOY, run_id, "approve", ["Reject"])

    assert admin.await_state(DEPLOY, run_id, timeout_seconds=120) == "failed"
    deployment = ledger.deployments.get(DEPLOY, run_id)
    assert deployment.outcome is Outcome.REJECTED
    assert "rejected by approver" in str(deployment.detail)
    assert live() == "v1.0.0"
    assert states(admin, run_id)["acquire_lease"] == "upstream_failed"
    assert ledger.leases.current_reservation("production") is None

    # Cleared, it asks anew: the answer to the first question says nothing about the second.
    admin.clear(DEPLOY, run_id, ["approve"])
    asked(admin, run_id)
    approver.answer(DEPLOY, run_id, "approve", ["Reject"])
    assert admin.await_state(DEPLOY, run_id, timeout_seconds=120) == "failed"


@pytest.mark.long
def test_gates_without_data_stop_it_and_a_waiver_needs_a_reason(
    admin: AirflowClient, approver: AirflowClient, ledger: Ledger
) -> None:
    attest.remove(resolve("v1.1.0"))
    run_id = admin.trigger(DEPLOY, {"version": "v1.1.0"})
    body = asked(admin, run_id, "waive_gates")
    assert "no pipeline has attested" in body
    assert states(admin, run_id)["gates.tests_passed"] == "failed"
    assert states(admin, run_id)["deploy_first"] is None, "staging came before the gates"

    admin.answer(DEPLOY, run_id, "waive_gates", ["Waive"], {"reason": REASON})
    await_asked_again(admin, ledger, run_id, "waive_gates", "admin is the requester")
    approver.answer(DEPLOY, run_id, "waive_gates", ["Waive"])
    await_asked_again(admin, ledger, run_id, "waive_gates", "approving needs a reason")
    approver.answer(DEPLOY, run_id, "waive_gates", ["Waive"], {"reason": REASON})

    assert REASON in asked(admin, run_id)
    approver.answer(DEPLOY, run_id, "approve", ["Reject"])
    assert admin.await_state(DEPLOY, run_id, timeout_seconds=120) == "failed"
    waived = [gate for gate in load(ledger, DEPLOY, run_id).gates if gate.verdict == "waived"]
    assert "tests_passed" in {gate.name for gate in waived}
    assert all("waived by approver" in gate.detail for gate in waived)
    assert live() == "v1.0.0"


@pytest.mark.long
def test_a_version_that_moved_since_the_approval_is_not_deployed(
    admin: AirflowClient, approver: AirflowClient, ledger: Ledger
) -> None:
    bare = paths.host_files("build") / REPOSITORY

    def point(branch: str, version: str) -> None:
        command = ["git", "-c", f"safe.directory={bare}", "--git-dir", str(bare), "update-ref"]
        subprocess.run([*command, f"refs/heads/{branch}", resolve(version)], check=True)

    point("candidate", "v1.1.0")
    run_id = admin.trigger(DEPLOY, {"version": "candidate"})
    asked(admin, run_id)
    point("candidate", "v1.2.0")

    approver.answer(DEPLOY, run_id, "approve", ["Approve"])

    assert admin.await_state(DEPLOY, run_id, timeout_seconds=120) == "failed"
    assert "not as it was approved" in str(admin.logs(DEPLOY, run_id, "plan_deployment"))
    assert live() == "v1.0.0"
    assert ledger.leases.current("production") is None
