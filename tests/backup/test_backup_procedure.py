"""Backups in Airflow, in the lab: made on the replica while others write, proven, catalogued, one at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
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
from sebenza_ops.evidence import facts
from sebenza_ops.ledger import BackupKind, BackupSet, Ledger
from tests.schedules import switched_on

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(400)]

PRODUCTION, STAGING = "backup_database.production", "backup_database.staging"
VERIFY_PRODUCTION = "verify_backups.production"
# A verification is set off by its backup, so it is awaited: whatever is switched on is switched off at the end.
SWITCHED = (VERIFY_PRODUCTION, STAGING, PRODUCTION)


@dataclass(frozen=True)
class Began:
    """The clients, and the runs that there were before the schedules were switched on."""

    operator: AirflowClient
    before: dict[str, set[str]]

    def runs(self, dag_id: str) -> set[str]:
        """The runs that have begun since."""
        return run_ids(self.operator, dag_id) - self.before[dag_id]


def run_ids(client: AirflowClient, dag_id: str) -> set[str]:
    return {run["dag_run_id"] for run in client.dag_runs(dag_id)}


@pytest.fixture(scope="module")
def began(estate: Any, airflow: LocalAirflow) -> Iterator[Began]:
    """The schedules are switched on. A schedule that never ran begins at once, with the run that was due last."""
    with airflow.client("operator") as operator, airflow.client("admin") as admin:
        before = {dag_id: run_ids(operator, dag_id) for dag_id in SWITCHED}
        # Its weekly run begins at once, finds no backup perhaps, and holds the lease of backups meanwhile.
        switched_on(operator, admin, VERIFY_PRODUCTION)
        for dag_id in (STAGING, PRODUCTION):
            admin.set_paused(dag_id, False)
        # Beside production's, so that its test has less to wait for.
        operator.trigger(STAGING, {})
        yield Began(operator, before)
        for dag_id in SWITCHED:
            admin.set_paused(dag_id, True)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


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


def test_production_is_backed_up_from_its_replica_once_while_others_write(began: Began, ledger: Ledger) -> None:
    operator, before = began.operator, set(repository("db1"))
    until(
        lambda: any(run["run_type"] == "scheduled" for run in operator.dag_runs(PRODUCTION)),
        "the schedule has begun",
        60,
    )
    with writes():
        for _ in range(2):
            operator.trigger(PRODUCTION, {"type": "full"})
        results = {run_id: ended(operator, PRODUCTION, run_id) for run_id in began.runs(PRODUCTION)}
    (made_by,) = [run_id for run_id, (state, _) in results.items() if state == "success"]
    for run_id, (state, tasks) in results.items():
        if run_id != made_by:
            assert (state, tasks["plan_backup"]) == ("failed", "failed")
            assert "another backup of production works" in str(operator.logs(PRODUCTION, run_id, "plan_backup"))

    made = of_run(ledger, PRODUCTION, made_by)
    physical, dump = made[BackupKind.PHYSICAL], made[BackupKind.LOGICAL]
    assert set(repository("db1")) - before == {physical.label}
    assert repository("db1")[physical.label]["type"] == physical.backup_type
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
    timeline = [entry.text for entry in facts.load(ledger, PRODUCTION, made_by).timeline]
    verifying = next(at for at, text in enumerate(timeline) if "read back beside the dump" in text)
    assert verifying < next(at for at, text in enumerate(timeline) if text.startswith("dumped in"))
    outcome = operator.xcom(PRODUCTION, made_by, "finish_backup")
    made_run = operator.dag_run(PRODUCTION, made_by)
    begun, over = (datetime.fromisoformat(str(made_run[name])) for name in ("start_date", "end_date"))
    assert 0 <= outcome["rpo_seconds"] <= (over - begun).total_seconds(), "what it has archived itself does not count"
    assert outcome["warnings"] == []
    secrets = lab_secrets()
    told = str([operator.logs(PRODUCTION, made_by, task) for task in results[made_by][1]])
    told += str(ledger.evidence.entries(PRODUCTION, made_by))
    for secret in (secrets.backup_cipher_production, secrets.storage_backup_secret, "X-Amz-Signature"):
        assert secret not in told


def set_off(began: Began) -> set[str]:
    """The verifications that a backup has set off since."""
    runs = {run["dag_run_id"]: str(run["run_type"]) for run in began.operator.dag_runs(VERIFY_PRODUCTION)}
    return {run_id for run_id in began.runs(VERIFY_PRODUCTION) if runs[run_id] == "asset_triggered"}


def test_the_set_is_restored_on_the_replica_afterwards(began: Began, ledger: Ledger) -> None:
    operator = began.operator
    until(lambda: bool(set_off(began)), "the backup has set its verification off", 60)
    (run_id,) = set_off(began)
    assert ended(operator, VERIFY_PRODUCTION, run_id)[0] == "success"
    plan = operator.xcom(VERIFY_PRODUCTION, run_id, "plan_restore_test")
    assert plan["host"] == "db2"
    assert operator.xcom(VERIFY_PRODUCTION, run_id, "restore_set")["restored_bytes"] > 10**7
    proven = ledger.backup_sets.find("production", BackupKind.PHYSICAL, plan["label"])
    assert proven is not None
    assert proven.restore_tested_at is not None
    assert proven.detail["host"] == "db2"
    assert list((paths.host_files("db2") / "var/lib/sebenza-backup").glob("*/data")) == []
    assert ledger.leases.current("production.backup") is None
    assert ledger.leases.current("production") is None


def test_staging_is_backed_up_from_its_only_server(began: Began, ledger: Ledger) -> None:
    operator = began.operator
    # One of two, where the schedule was new.
    results = {run_id: ended(operator, STAGING, run_id)[0] for run_id in began.runs(STAGING)}
    (run_id,) = [run_id for run_id, state in results.items() if state == "success"]
    made = of_run(ledger, STAGING, run_id)
    assert made[BackupKind.PHYSICAL].backup_type == "full"
    assert made[BackupKind.PHYSICAL].detail["from_replica"] is False
    manifest = json.loads(stored(made[BackupKind.LOGICAL].detail["manifest"], "staging/"))
    assert [piece["name"] for piece in manifest["objects"].values()] == ["database.pgc"]


def test_development_has_no_backups(began: Began) -> None:
    names = {dag["dag_id"] for dag in began.operator.dags()}
    assert {"backup_database.staging", "verify_backups.staging"} <= names
    assert not {"backup_database.development", "verify_backups.development"} & names
