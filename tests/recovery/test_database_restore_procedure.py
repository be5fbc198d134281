"""A restore into a new database in Airflow, on the lab's production: a set that was chosen, beside the one in use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from psycopg2 import sql

from lab import checker, paths, postgres
from lab.airflow.stack import LocalAirflow
from lab.waiting import until
from sebenza_ops.ledger import BackupKind, Ledger
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

BACKUP, RESTORE = "backup_database.production", "restore_database.production"
TARGET = "sebenza_of_then"


@pytest.fixture
def ledger(estate: Any, airflow: LocalAirflow) -> Iterator[Ledger]:
    """The lab's ledger, which knows a verified set with its dump; the restored database is dropped afterwards."""
    found = Ledger.open(f"sqlite:///{paths.LAB_DIR}/ledger/ledger.db")
    if not any(each.is_good for each in found.backup_sets.present("production", BackupKind.LOGICAL)):
        with airflow.client("admin") as admin:
            admin.set_paused(BACKUP, False)
            try:
                # A schedule that never ran begins at once.
                until(lambda: bool(admin.dag_runs(BACKUP)), "the schedule has begun", 60)
                run_id = str(admin.dag_runs(BACKUP)[0]["dag_run_id"])
                assert admin.await_state(BACKUP, run_id, timeout_seconds=300) == "success"
            finally:
                admin.set_paused(BACKUP, True)
    yield found
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(TARGET)))


def test_a_chosen_set_becomes_a_new_database(airflow: LocalAirflow, ledger: Ledger) -> None:
    newest = next(each for each in ledger.backup_sets.present("production", BackupKind.LOGICAL) if each.is_good)
    with airflow.client("operator") as operator:
        run_id = operator.trigger(RESTORE, {"target_database": TARGET, "set": "choose"})
        operator.await_state(RESTORE, run_id, {"awaiting_input"}, task_id="choose_set", timeout_seconds=120)
        details = operator.hitl_details(RESTORE, run_id, "choose_set")
        assert newest.label in details["options"]
        assert newest.label in str(details["body"])
        with airflow.client("approver") as approver:
            approver.answer(RESTORE, run_id, "choose_set", [newest.label])
        state = operator.await_state(RESTORE, run_id, timeout_seconds=240)
        assert state == "success", str(operator.logs(RESTORE, run_id, "restore_into"))[-3000:]
        found = operator.xcom(RESTORE, run_id, "restore_into")
        state, tasks, second = ended(operator, RESTORE, {"target_database": TARGET})
        assert (state, tasks["plan_restore"]) == ("failed", "failed")
        assert "already, and it is not touched" in str(operator.logs(RESTORE, second, "plan_restore"))
    assert found["set"] == newest.label
    with postgres.connect(postgres.primary_of_production(), TARGET) as cursor:
        cursor.execute("SELECT count(*) FROM projects")
        assert cursor.fetchone()[0] > 0
    tested = ledger.backup_sets.find("production", BackupKind.LOGICAL, newest.label)
    assert tested is not None
    assert tested.restore_tested_at is not None
    record = ledger.deployments.get(RESTORE, run_id)
    assert f"{TARGET} holds {newest.label}" in str(record.detail)
    assert record.evidence_url
    assert ledger.leases.current("production") is None
    assert checker.check("production").problems == []
