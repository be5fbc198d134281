"""A rollback that brings the database back as well, in Airflow, on the lab's production."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from lab import checker, paths, postgres, releases
from lab.addresses import HTTPS_PORT, address
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.chaos.inventory_file import changed_policies
from lab.hosts import ENVIRONMENTS
from lab.waiting import until
from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.backup_before import backup_before_change, parse_backup
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.ledger import Holder, Ledger, Outcome
from sebenza_ops.systems.object_store import ObjectStorage
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

DEPLOY, ROLLBACK = "deploy_blue_green.production", "rollback.production"
REASON = "orders are written twice since the deployment"
PRODUCTION = ENVIRONMENTS["production"]
DATABASE = PRODUCTION.database_name
APPROVE, QUESTION = "Bring the database back", "approve_database_rollback"


def databases(host: str | None = None) -> set[str]:
    """The databases beside production's."""
    with postgres.connect(host or postgres.primary_of_production()) as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE %s", (f"{DATABASE}\\_%",))
        return {name for (name,) in cursor.fetchall()}


def forget(ledger: Ledger) -> None:
    """Leave production's database as other tests expect it, nothing beside it, and nobody's reservation."""
    ledger.leases.clear_reservation("production", "tests", "the test is over")
    primary = postgres.primary_of_production()
    for name in databases():
        with postgres.connect(primary) as cursor:
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    with postgres.connect(primary, DATABASE) as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    for version in ("v1.0.0", "v1.1.0"):
        release = ledger.releases.by_version(version)
        if release is not None:
            ledger.releases.forgive("production", release.release_id, "a test", Holder("tests", "1", "tests"))


@pytest.fixture(scope="module")
def ledger(estate: Any) -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow, ledger: Ledger) -> Iterator[AirflowClient]:
    """v1.1.0 is live in production, deployed with a backup before it; the requester of a change may not approve it."""
    estate.reset("production")
    forget(ledger)
    with (
        airflow.client("admin") as client,
        changed_policies("production", blue_green={"traffic": "synthetic", "bake_seconds": 5}),
    ):
        run_id = f"manual__{uuid4().hex[:12]}"
        with pytest.MonkeyPatch.context() as patch:
            for conn_id, connection in estate.connections.items():
                patch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
            patch.setenv("SEBENZA_ENVIRONMENTS", str(paths.ENVIRONMENTS_DIR))
            # What the way in of a deployment does where the policy demands it, gates and people left out.
            production = load_inventory().environment("production")
            backup_before_change(ChangeRun(ledger, production, Holder(DEPLOY, run_id, "operator")))
        client.trigger(DEPLOY, {"version": "v1.1.0"}, run_id=run_id)
        assert client.await_state(DEPLOY, run_id, timeout_seconds=180) == "success"
        with changed_policies("production", approvals={"exclude_requester": True, "timeout_seconds": 600}):
            yield client
    estate.reset("production")
    forget(ledger)
    good = releases.first_artifact().release_id
    ledger.releases.set_last_known_good("production", good, Holder("tests", "database rollback", "tests"))


def request(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the application as a user does."""
    with httpx.Client(verify=ssl.create_default_context(cafile=paths.CA_FILE), trust_env=False, timeout=10) as client:
        answer = client.request(
            method,
            f"https://{address('lb1')}:{HTTPS_PORT}{path}",
            json=body,
            headers={"Host": PRODUCTION.hostname, "Authorization": "Bearer tester"},
            extensions={"sni_hostname": PRODUCTION.hostname},
        )
    assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
    return answer.json()


def invoice() -> str:
    """Write an invoice through the application; its id."""
    return str(request("POST", "/api/v1/invoices", {"clientId": "C-0001", "amountCents": 1234})["id"])


def listed() -> set[str]:
    """The invoices that users see first, from the cache when it has them."""
    return {str(one["id"]) for one in request("GET", "/api/v1/invoices")["invoices"]}


def in_database(name: str, invoices: set[str]) -> int:
    with postgres.connect(postgres.primary_of_production(), name) as cursor:
        cursor.execute("SELECT count(*) FROM invoices WHERE id::text = ANY(%s)", (list(invoices),))
        return int(cursor.fetchone()[0])


def live() -> str:
    verdict = checker.check("production")
    assert not verdict.problems, verdict.problems
    return str(verdict.release).rpartition("-")[0]


def asked(client: AirflowClient, conf: dict[str, Any]) -> tuple[str, str]:
    """Start a rollback and wait until it asks about the database; its id, and what it shows."""
    run_id = client.trigger(ROLLBACK, {"reason": REASON, "database": True, **conf})
    client.await_state(ROLLBACK, run_id, {"awaiting_input"}, task_id=QUESTION, timeout_seconds=120)
    return run_id, str(client.hitl_details(ROLLBACK, run_id, QUESTION)["body"])


def states(client: AirflowClient, run_id: str) -> dict[str, str | None]:
    return {task.task_id: task.state for task in client.task_instances(ROLLBACK, run_id)}


def test_the_database_goes_back_after_traffic_and_what_was_written_since_is_kept(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    assert live() == "v1.1.0"
    written = {invoice(), invoice()}
    assert written <= listed()

    run_id, body = asked(operator, {})

    assert live() == "v1.0.0", "traffic waits for an answer about data"
    assert "| public.invoices | 2 (by created_at) |" in body, body
    for part in ("schema revision", "admin (requester)", "extension pg_stat_statements is missing", REASON):
        assert part in body, body
    assert listed() >= written
    assert ledger.leases.current("production") is None, "a lease is held while people think"
    reserved = ledger.leases.current_reservation("production")
    assert reserved is not None
    assert reserved.holder.run_id == run_id
    written.add(invoice())  # while people think

    operator.answer(ROLLBACK, run_id, QUESTION, [APPROVE])
    until(lambda: not_taken(ledger, run_id), "the requester's own approval is not taken", 30)
    operator.await_state(ROLLBACK, run_id, {"awaiting_input"}, task_id=QUESTION, timeout_seconds=60)
    with airflow.client("approver") as approver:
        approver.answer(ROLLBACK, run_id, QUESTION, [APPROVE])

    assert operator.await_state(ROLLBACK, run_id, timeout_seconds=180) == "success", states(operator, run_id)
    # Not even from the cache.
    assert not listed() & written
    assert live() == "v1.0.0"
    (aside,) = databases()
    assert aside.startswith(f"{DATABASE}_before_")
    assert (in_database(DATABASE, written), in_database(aside, written)) == (0, 3)
    until(lambda: databases("db2") == {aside}, "the replica follows", 20)
    entry = ledger.audit.entries(environment="production", action="database.rolled_back")[0]
    assert (entry.subject, entry.detail["kept_as"], entry.detail["approved_by"]) == (DATABASE, aside, "approver")
    run = operator.dag_run(ROLLBACK, run_id)
    began, ended_at = (datetime.fromisoformat(str(run[name])) for name in ("start_date", "end_date"))
    assert 0 <= entry.detail["interrupted_seconds"] <= (ended_at - began).total_seconds()
    record = ledger.deployments.get(ROLLBACK, run_id)
    assert record.outcome is Outcome.SUCCEEDED
    assert f"kept as {aside}" in str(record.detail)
    assert "public.invoices 3" in str(record.detail)
    backup = parse_backup(operator.xcom(ROLLBACK, run_id, "backup_before_database_rollback"))
    assert backup is not None
    assert backup.schema_revision > 1
    assert ledger.leases.current("production") is None
    assert in_database(DATABASE, {invoice()}) == 1, "the application can't write into the restored database"


def not_taken(ledger: Ledger, run_id: str) -> bool:
    entries = ledger.audit.entries(environment="production", action="decision.not_taken")
    return any(run_id in entry.subject and "is the requester" in entry.detail["reason"] for entry in entries)


def test_a_rejection_leaves_the_database_and_traffic_stays_back(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    before, kept = invoice(), databases()
    # Traffic is back since the former run: only the database is left to bring back.
    run_id, body = asked(operator, {"to": "v1.0.0"})
    assert "| public.invoices | 2 (by created_at) |" in body, "the invoices of this and of the former test"

    with airflow.client("approver") as approver:
        approver.answer(ROLLBACK, run_id, QUESTION, ["Reject"])

    assert operator.await_state(ROLLBACK, run_id, timeout_seconds=90) == "failed"
    assert (live(), in_database(DATABASE, {before})) == ("v1.0.0", 1)
    assert databases() == kept, "the copy was left, or the database was moved"
    record = ledger.deployments.get(ROLLBACK, run_id)
    assert record.outcome is Outcome.REJECTED
    assert f"the database {DATABASE} STAYS as it is (approver has rejected" in str(record.detail)
    assert "Alternatives: leave" in str(record.detail)
    assert states(operator, run_id)["swap_database"] == "upstream_failed"
    assert ledger.leases.current_reservation("production") is None


def test_without_a_backup_or_after_a_contract_migration_it_is_refused_and_traffic_is_back(
    operator: AirflowClient, ledger: Ledger, estate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.audit.append("schema.contracted", "tests", "production", "migration 4 drop_invoice_amount", {})
    state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON, "to": "v1.0.0", "database": True})

    assert (state, tasks["plan_database_rollback"], tasks["restore_beside"]) == ("failed", "failed", "upstream_failed")
    detail = str(ledger.deployments.get(ROLLBACK, run_id).detail)
    assert "all load balancers send to blue" in detail
    assert "a contract migration ran since the backup" in detail
    assert "migration 4 drop_invoice_amount" in detail
    assert live() == "v1.0.0"
    assert datetime.now(UTC) > ledger.audit.entries(environment="production", action="schema.contracted")[0].at

    for conn_id, connection in estate.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(paths.ENVIRONMENTS_DIR))
    storage = ObjectStorage(load_inventory().environment("production").object_store)
    for key in storage.keys("backups/before/"):
        if ".production/" in key:
            storage.delete(key)
    state, _, run_id = ended(operator, ROLLBACK, {"reason": REASON, "to": "v1.0.0", "database": True})
    assert state == "failed"
    assert "there is no verified backup" in str(ledger.deployments.get(ROLLBACK, run_id).detail)


def test_a_rollback_that_does_not_ask_for_it_has_none_of_its_tasks(operator: AirflowClient) -> None:
    state, tasks, _ = ended(operator, ROLLBACK, {"reason": REASON, "to": "v1.0.0"})
    assert state == "success"
    assert {tasks[name] for name in ("plan_database_rollback", "restore_beside", QUESTION, "swap_database")} == {
        "skipped"
    }
