"""A restore to a point in time in Airflow, on the lab's production: refused, rejected, and put in after an approval."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lab import addresses, backups, checker, commit_writer, paths, postgres
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.commit_writer import CommitWriter
from lab.secrets import lab_secrets
from lab.waiting import until
from sebenza_ops.ledger import Ledger
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

DAG_ID, BACKUP = "restore_point_in_time.production", "backup_database.production"
QUESTION, APPROVE = "approve_exchange", "Exchange the database"
ENDPOINT = (addresses.address("dbendpoint"), addresses.POSTGRES_PORT)
REASON = "an import has overwritten the rows of today"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client


@pytest.fixture
def ledger(operator: AirflowClient, airflow: LocalAirflow) -> Iterator[Ledger]:
    """The lab's ledger; afterwards nobody holds production, and its pair is a pair."""
    found = Ledger.open(f"sqlite:///{paths.LAB_DIR}/ledger/ledger.db")
    yield found
    lease = found.leases.current("production")
    if lease is not None:
        found.leases.release("production", lease.token, "the test is over", "tests")
    # The backups' schedule is off: what a restore has started would begin in another test.
    with airflow.client("admin") as admin:
        for row in admin.dag_runs(BACKUP):
            if str(row["dag_run_id"]).startswith("after__"):
                admin.request("DELETE", f"/dags/{BACKUP}/dagRuns/{row['dag_run_id']}")
    postgres.settle_pair()
    commit_writer.drop(ENDPOINT, "postgres", lab_secrets().postgres_superuser)


def asked(client: AirflowClient, moment: float, **conf: Any) -> str:
    target = datetime.fromtimestamp(moment, UTC).isoformat()
    run_id = client.trigger(DAG_ID, {"target": target, "reason": REASON, **conf})
    client.await_state(DAG_ID, run_id, {"awaiting_input"}, task_id=QUESTION, timeout_seconds=240)
    return run_id


def answered(airflow: LocalAirflow, client: AirflowClient, run_id: str, option: str) -> str:
    with airflow.client("approver") as approver:
        approver.answer(DAG_ID, run_id, QUESTION, [option], {"reason": "seen: the rows are right there"})
    return client.await_state(DAG_ID, run_id, timeout_seconds=300)


def beside(host: str, what: str) -> list[Path]:
    data = postgres.data_directory(host)
    return list(data.parent.glob(f"{data.name}.{what}-*"))


def test_the_database_goes_back_to_a_moment_after_an_approval(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    primary = postgres.primary_of_production()
    replica = {"db1": "db2", "db2": "db1"}[primary]
    writer = CommitWriter(ENDPOINT, "postgres", lab_secrets().postgres_superuser)
    with writer:
        until(lambda: len(writer.acknowledged) > 20, "it writes")
        made = backups.run(primary, "--type=full", "backup", timeout_seconds=180)
        assert made.returncode == 0, made.stdout + made.stderr
        until(lambda: len(writer.acknowledged) > 200, "it writes")
        # pgBackRest tells whole seconds: only a later one is after the set.
        time.sleep(1.2)
        moment = time.time()
        now = len(writer.acknowledged)
        until(lambda: len(writer.acknowledged) > now + 100, "it writes on")

        refused = {"target": "2020-01-01 00:00:00Z", "reason": REASON}
        state, tasks, run_id = ended(operator, DAG_ID, refused)
        assert (state, tasks["plan_restore"], tasks["restore_beside"]) == ("failed", "failed", "upstream_failed")
        assert "is before the end of the oldest set" in str(operator.logs(DAG_ID, run_id, "plan_restore"))
        assert ledger.deployments.get(DAG_ID, run_id).outcome == "refused"

        run_id = asked(operator, moment)
        body = str(operator.hitl_details(DAG_ID, run_id, QUESTION)["body"])
        assert "lab_writer public.commits" in body
        assert answered(airflow, operator, run_id, APPROVE) == "success", str(
            [operator.logs(DAG_ID, run_id, task) for task in ("exchange_cluster", "rebuild_replica", "verify_restore")]
        )[-6000:]
    assert postgres.primary_of_production() == primary
    assert postgres.streams(primary, f"{replica}_slot")
    for host in (primary, replica):
        place = (addresses.address(host), addresses.POSTGRES_PORT)
        # What the writer was told after the exchange is there, and is no part of the comparison.
        late = [each for each in writer.acknowledged if each.at > moment]
        gap = next((i for i, (a, b) in enumerate(pairwise(late)) if b.at - a.at > 0.5), len(late))
        writer.acknowledged = [each for each in writer.acknowledged if each.at <= moment] + late[:gap]
        wrong = writer.wrong_rows(writer.numbers(place), moment)
        assert wrong.count == 0, (host, wrong)
    deployment = ledger.deployments.get(DAG_ID, run_id)
    print("\n", deployment.detail)
    backup_run = f"after__{run_id}__0"
    assert f"a full backup was started ({BACKUP} {backup_run}" in str(deployment.detail)
    assert operator.dag_run(BACKUP, backup_run)["conf"] == {"type": "full"}
    assert deployment.evidence_url
    (kept,) = beside(primary, "before")
    assert (kept / "PG_VERSION").exists()
    assert not beside(primary, "restored")
    assert backups.run(primary, "check", timeout_seconds=100).returncode == 0
    assert ledger.leases.current("production") is None
    assert checker.check("production").problems == []


def test_a_rejected_copy_is_removed_and_nothing_was_changed(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    primary = postgres.primary_of_production()
    with postgres.connect(primary) as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()")
        started = cursor.fetchone()
    made = backups.run(primary, "--type=full", "backup", timeout_seconds=180)
    assert made.returncode == 0, made.stdout + made.stderr
    # pgBackRest tells whole seconds: only a later one is after the set.
    time.sleep(1.2)
    run_id = asked(operator, time.time())
    assert beside(primary, "restored")
    assert answered(airflow, operator, run_id, "Reject") == "failed"
    deployment = ledger.deployments.get(DAG_ID, run_id)
    assert deployment.outcome == "rejected"
    assert "the database is untouched, the copy is removed" in str(deployment.detail)
    assert not beside(primary, "restored")
    with postgres.connect(primary) as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()")
        assert cursor.fetchone() == started
    assert ledger.leases.current("production") is None
