"""Backups in Airflow, in the lab: made on the replica while others write, proven, catalogued, one at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest

from lab import backups, inventory, paths, postgres
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.hosts import ENVIRONMENTS
from lab.secrets import lab_secrets
from lab.storage import BUCKET
from lab.waiting import until
from sebenza_ops.ledger import BackupKind, BackupSet, Ledger

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(400)]

PRODUCTION, STAGING = "backup_database.production", "backup_database.staging"
VERIFY_STAGING, VERIFY_PRODUCTION = "verify_backups.staging", "verify_backups.production"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client, airflow.client("admin") as admin:
        for dag_id in (PRODUCTION, STAGING):
            admin.set_paused(dag_id, False)
            await_scheduled_run(client, dag_id)
        yield client
        for dag_id in (PRODUCTION, STAGING, VERIFY_PRODUCTION, VERIFY_STAGING):
            admin.set_paused(dag_id, True)


def await_scheduled_run(client: AirflowClient, dag_id: str) -> None:
    """A schedule that is switched on begins with the run that was due last: manual ones would be refused beside it."""
    until(
        lambda: any(run["run_type"] == "scheduled" for run in client.dag_runs(dag_id)), "the scheduled run exists", 60
    )
    for run in client.dag_runs(dag_id):
        client.await_state(dag_id, run["dag_run_id"], timeout_seconds=240)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LAB_DIR}/ledger/ledger.db")


def ended(client: AirflowClient, dag_id: str, run_id: str) -> tuple[str, dict[str, str | None]]:
    state = client.await_state(dag_id, run_id, timeout_seconds=240)
    return state, {task.task_id: task.state for task in client.task_instances(dag_id, run_id)}


@contextmanager
def writes() -> Iterator[None]:
    """Somebody who writes through the application's address all the time."""
    stop = threading.Event()

    def write() -> None:
        connection = psycopg2.connect(postgres.database_url(ENVIRONMENTS["production"]))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS backup_test (id bigserial PRIMARY KEY, at timestamptz)")
            while not stop.wait(0.02):
                cursor.execute("INSERT INTO backup_test (at) VALUES (clock_timestamp())")
            cursor.execute("DROP TABLE backup_test")
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def repository(host: str) -> dict[str, dict[str, Any]]:
    """The sets of a host's repository, by pgBackRest itself."""
    found = json.loads(backups.run(host, "info", "--output=json").stdout)[0]
    assert found["cipher"] == "aes-256-cbc"
    return {each["label"]: each for each in found["backup"]}


def stored(key: str, prefix: str = "") -> bytes:
    content: bytes = inventory.storage_client().get_object(Bucket=BUCKET, Key=prefix + key)["Body"].read()
    return content


def of_run(ledger: Ledger, dag_id: str, run_id: str) -> dict[BackupKind, BackupSet]:
    return {each.kind: each for each in ledger.backup_sets.of_run(dag_id, run_id)}


def test_production_is_backed_up_from_its_replica_while_others_write(operator: AirflowClient, ledger: Ledger) -> None:
    with writes():
        run_id = operator.trigger(PRODUCTION, {"type": "full"})
        state, tasks = ended(operator, PRODUCTION, run_id)
    assert (state, set(tasks.values())) == ("success", {"success"})

    made = of_run(ledger, PRODUCTION, run_id)
    physical, dump = made[BackupKind.PHYSICAL], made[BackupKind.LOGICAL]
    assert repository("db1")[physical.label]["type"] == "full"
    assert (physical.detail["host"], physical.detail["from_replica"]) == ("db2", True)
    assert physical.is_good
    assert dump.is_good
    manifest = json.loads(stored(dump.detail["manifest"]))
    assert manifest["rows"]["public.backup_test"] > 0
    assert manifest["rows"]["public.projects"] > 0
    assert manifest["schema_revision"] >= 1
    assert manifest["backup"] == physical.label
    for key, piece in manifest["objects"].items():
        assert len(stored(key)) == piece["size_bytes"], key

    outcome = operator.xcom(PRODUCTION, run_id, "finish_backup")
    assert outcome["rpo_seconds"] <= 60
    assert outcome["warnings"] == []
    assert ledger.leases.current("production.backup") is None
    assert ledger.leases.current("production") is None
    secrets = lab_secrets()
    told = str([operator.logs(PRODUCTION, run_id, task) for task in tasks]) + str(
        ledger.evidence.entries(PRODUCTION, run_id)
    )
    for secret in (secrets.backup_cipher_production, secrets.storage_backup_secret, "X-Amz-Signature"):
        assert secret not in told
    events = operator.request("GET", "/assets/events", params={"source_dag_id": PRODUCTION})["asset_events"]
    assert run_id in {event["source_run_id"] for event in events}


def test_of_two_runs_at_once_one_is_refused(operator: AirflowClient, ledger: Ledger) -> None:
    before = set(repository("db1"))
    run_ids = [operator.trigger(PRODUCTION, {"type": "incr"}) for _ in range(2)]
    results = {run_id: ended(operator, PRODUCTION, run_id) for run_id in run_ids}
    assert sorted(state for state, _ in results.values()) == ["failed", "success"]
    (refused,) = [run_id for run_id, (state, _) in results.items() if state == "failed"]
    assert results[refused][1]["plan_backup"] == "failed"
    assert "another backup of production works" in str(operator.logs(PRODUCTION, refused, "plan_backup"))
    (made,) = [
        found
        for run_id in run_ids
        if (found := of_run(ledger, PRODUCTION, run_id).get(BackupKind.PHYSICAL)) is not None
    ]
    assert made.backup_type == "incr"
    assert set(repository("db1")) - before == {made.label}


def test_a_set_of_production_is_restored_on_its_replica(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    with airflow.client("admin") as admin:
        admin.set_paused(VERIFY_PRODUCTION, False)
    newest = next(each for each in ledger.backup_sets.present("production", BackupKind.PHYSICAL) if each.made_by)
    run_id = operator.trigger(VERIFY_PRODUCTION, {"set": newest.label})
    assert ended(operator, VERIFY_PRODUCTION, run_id)[0] == "success"
    assert operator.xcom(VERIFY_PRODUCTION, run_id, "plan_restore_test")["host"] == "db2"
    measured = operator.xcom(VERIFY_PRODUCTION, run_id, "restore_set")
    assert measured["restored_bytes"] > 10**7
    proven = ledger.backup_sets.find("production", BackupKind.PHYSICAL, newest.label)
    assert proven is not None
    assert proven.restore_tested_at is not None
    assert list((paths.host_files("db2") / "var/lib/sebenza-backup").glob("*/data")) == []


def test_staging_is_backed_up_from_its_only_server_and_restored_afterwards(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    with airflow.client("admin") as admin:
        admin.set_paused(VERIFY_STAGING, False)
    before = {run["dag_run_id"] for run in operator.dag_runs(VERIFY_STAGING)}
    run_id = operator.trigger(STAGING, {})
    state, _ = ended(operator, STAGING, run_id)
    assert state == "success"
    made = of_run(ledger, STAGING, run_id)
    assert made[BackupKind.PHYSICAL].backup_type == "full"
    assert made[BackupKind.PHYSICAL].detail["from_replica"] is False
    manifest = json.loads(stored(made[BackupKind.LOGICAL].detail["manifest"], "staging/"))
    assert [piece["name"] for piece in manifest["objects"].values()] == ["database.pgc"]

    def begun() -> set[str]:
        return {run["dag_run_id"] for run in operator.dag_runs(VERIFY_STAGING)} - before

    until(lambda: bool(begun()), "the backup sets its verification off", 60)
    for verification in begun():
        assert ended(operator, VERIFY_STAGING, verification)[0] == "success"
    proven = ledger.backup_sets.find("staging", BackupKind.PHYSICAL, made[BackupKind.PHYSICAL].label)
    assert proven is not None
    assert proven.restore_tested_at is not None


def test_development_has_no_backups(operator: AirflowClient) -> None:
    assert "backup_database.development" not in {dag["dag_id"] for dag in operator.dags()}
