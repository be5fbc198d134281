"""The waits of a backup: when a job ends, what a parked task leaves behind, what a failure is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from sebenza_ops.backup import jobs, steps
from sebenza_ops.backup.errors import BackupDamagedError, BackupFailedError
from sebenza_ops.backup.jobs import WAIT_SECONDS, JobRunning, await_job, job_key
from sebenza_ops.backup.operators import BackUpOperator, PlanBackupOperator
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.backup.triggers import JobEndedTrigger
from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.pgbackrest import JobStatus
from tests.systems.estates import shipped

PRODUCTION = shipped("production")
DB2 = PRODUCTION.host("db2")
PLAN = BackupPlan(
    environment="production",
    job="j" * 32,
    backup_type="diff",
    reason="asked for",
    host="db2",
    primary="db1",
    from_replica=True,
)


@pytest.fixture
def run(tmp_path: Path) -> ChangeRun:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    holder = Holder("backup_database.production", "manual__1", "thandi")
    return ChangeRun(ledger, PRODUCTION, holder, lease_name="production.backup")


@pytest.fixture
def operator(run: ChangeRun, monkeypatch: pytest.MonkeyPatch) -> BackUpOperator:
    monkeypatch.setattr(BackUpOperator, "find_run", lambda self, context: run)
    return BackUpOperator(task_id="back_up", environment="production", plan=PLAN.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (Holder("backup_database.production", "night", "x"), AirflowFailException),
        (Holder("deploy_blue_green.production", "r", "x"), AirflowException),
    ],
)
def test_a_second_backup_is_refused_and_a_moment_of_a_change_is_waited_for(
    run: ChangeRun, monkeypatch: pytest.MonkeyPatch, holder: Holder, expected: type[Exception]
) -> None:
    run.ledger.leases.acquire("production.backup", holder, "a backup", 60)
    monkeypatch.setattr(PlanBackupOperator, "find_run", lambda self, context: run)
    monkeypatch.setattr(steps, "on_hosts", lambda hosts, login, action: {})
    context: Any = {"params": {"type": "auto"}, "ti": SimpleNamespace(try_number=1, max_tries=3)}
    with pytest.raises(AirflowException, match="another backup of production works") as caught:
        PlanBackupOperator(task_id="plan_backup", environment="production").execute(context)
    assert type(caught.value) is expected


def raising(error: Exception) -> Any:
    def work(self: Any, run: ChangeRun, plan: BackupPlan) -> str:
        raise error

    return work


def test_a_job_that_takes_longer_parks_the_task_and_keeps_the_lease(
    run: ChangeRun, operator: BackUpOperator, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = JobRunning(PRODUCTION, DB2, "j-backup", "the diff backup")
    monkeypatch.setattr(BackUpOperator, "work", raising(running))
    for begin in (lambda: operator.execute({}), lambda: operator.execute_complete({}, {"missing": ["db2: it works"]})):
        parked_at = datetime.now(UTC)
        with pytest.raises(TaskDeferred) as parked:
            begin()
        path, arguments = parked.value.trigger.serialize()
        assert path == "sebenza_ops.backup.triggers.JobEndedTrigger"
        assert arguments["arguments"] == {"db2": ["/var/lib/sebenza-backup", "j-backup"]}
        assert arguments["ssh_conn_id"] == "sebenza_production_database_ssh"
        lease = run.ledger.leases.current("production.backup")
        assert lease is not None
        assert lease.expires_at > parked_at + timedelta(seconds=WAIT_SECONDS)
    assert run.ledger.leases.current("production") is None, "a backup holds what deployments wait for"


@pytest.mark.parametrize(
    ("error", "raised"), [(BackupDamagedError("x"), AirflowFailException), (BackupFailedError("x"), BackupFailedError)]
)
def test_only_what_another_try_may_mend_is_tried_again(
    operator: BackUpOperator, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    monkeypatch.setattr(BackUpOperator, "work", raising(error))
    with pytest.raises(raised):
        operator.execute({})


@pytest.mark.parametrize(
    ("answer", "is_over"),
    [
        ("running\n", False),
        ("", False),
        (None, False),
        ("done\n{}", True),
        ("failed\nlog", True),
        ("absent\n", True),
    ],
)
def test_the_wait_is_over_when_the_job_is(answer: str | None, is_over: bool) -> None:
    trigger = JobRunning(PRODUCTION, DB2, "j-backup", "the backup").trigger()
    assert isinstance(trigger, JobEndedTrigger)
    assert (trigger.missing({"db2": answer}) == []) is is_over


def test_a_job_is_awaited_here_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [JobStatus("running"), JobStatus("running"), JobStatus("done", seconds=3)]

    def wait(*found: JobStatus) -> JobStatus:
        answers = list(found)
        return await_job(
            PRODUCTION, DB2, "j", "the backup", lambda: "started", lambda _: answers.pop(0), sleep=lambda _: None
        )

    assert wait(*states).seconds == 3
    with pytest.raises(BackupFailedError, match="the backup on db2 has failed: no space left"):
        wait(JobStatus("running"), JobStatus("failed", log_tail="no space left"))
    with pytest.raises(BackupFailedError, match="it was killed"):
        wait(JobStatus("absent"))
    monkeypatch.setattr(jobs, "QUICK_SECONDS", 0)
    with pytest.raises(JobRunning):
        wait(*states)


def test_a_cleared_run_makes_another_backup_and_a_retry_does_not() -> None:
    holder = Holder("backup_database.production", "manual__1", "thandi")
    assert job_key(holder, 0) == job_key(holder, 0)
    assert len({job_key(holder, 0), job_key(holder, 1), job_key(Holder(holder.dag_id, "manual__2", "x"), 0)}) == 3
