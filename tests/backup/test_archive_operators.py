"""Whom an application backup keeps out, and who keeps it out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.backup.archive_operators import AcquireBackupLeaseOperator
from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import Holder, Ledger
from tests.systems.estates import shipped

BACKUP = "backup_application.production"


def acquire(ledger: Ledger, run_id: str, monkeypatch: pytest.MonkeyPatch, *, try_number: int = 1) -> int:
    """One try of a run's first task."""
    run = ChangeRun(
        ledger, shipped("production"), Holder(BACKUP, run_id, "tests"), lease_name="production.application_backup"
    )
    operator = AcquireBackupLeaseOperator(task_id="acquire_lease", environment="production")
    assert f"production.{operator.lease_suffix}" == run.lease_name
    monkeypatch.setattr(AcquireBackupLeaseOperator, "find_run", lambda self, context: run)
    context: Any = {
        "dag_run": SimpleNamespace(conf={}),
        "dag": SimpleNamespace(params={}),
        "params": {},
        "ti": SimpleNamespace(try_number=try_number, max_tries=6),
    }
    return operator.execute(context)


def hold(ledger: Ledger, dag_id: str, lease: str = "production") -> None:
    ledger.leases.acquire(lease, Holder(dag_id, "r", "tests"), "tests", 60)


def test_a_deployment_and_a_backup_of_the_database_are_no_obstacle(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(ledger, "deploy_blue_green.production")
    hold(ledger, "backup_database.production", "production.backup")
    assert acquire(ledger, "r1", monkeypatch) > 0
    held = ledger.leases.current("production")
    assert held is not None
    assert held.holder.dag_id == "deploy_blue_green.production"


def test_it_steps_back_while_a_host_is_restored_and_fails_at_last(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(ledger, "restore_application.production")
    with pytest.raises(AirflowException, match=r"stepping back.*restores a host"):
        acquire(ledger, "r1", monkeypatch)
    with pytest.raises(AirflowFailException, match="no backup was made"):
        acquire(ledger, "r1", monkeypatch, try_number=7)
    assert ledger.leases.current("production.application_backup") is None


def test_a_second_one_waits_for_the_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire(ledger, "r1", monkeypatch)
    with pytest.raises(AirflowException, match="r1"):
        acquire(ledger, "r2", monkeypatch)
