"""The steps of an application backup, as operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.change_operators import (
    HOUSEKEEPING_RETRIES,
    HOUSEKEEPING_RETRY_DELAY,
    ChangeOperator,
    tasks_that_failed,
)
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context


# A lease of its own: a deployment does not wait for it, nor does a backup of the database, which may take hours.
LEASE = "application_backup"
RESTORE = "restore_application"


class ArchiveOperator(ChangeOperator):
    """Base of the steps: the environment stays free for changes, only another application backup is kept out."""

    lease_suffix = LEASE


class AcquireBackupLeaseOperator(ArchiveOperator):
    """Takes the lease of application backups, or steps back. That no backup was made is a failure.

    A freeze does not stop it: nothing of the environment changes. A restore of a host does: half of one is no backup.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"retries": HOUSEKEEPING_RETRIES, "retry_delay": HOUSEKEEPING_RETRY_DELAY, **kwargs})

    def execute(self, context: Context) -> int:
        """Returns the lease's token."""
        from sebenza_ops.ledger import LeaseKind

        refuse_unknown_conf(context)
        run = self.find_run(context)
        try:
            refuse_beside_restore(run)
            lease = run.acquire(self.purpose(context), self.lease_ttl_seconds(run), 0, LeaseKind.HOUSEKEEPING)
        except ChangeRefusedError as error:
            task_instance = context["ti"]
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"stepping back, to try again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(f"no backup was made: {error}") from error
        return lease.token


def refuse_beside_restore(run: ChangeRun) -> None:
    """Raises ChangeRefusedError while a host of the environment is being restored."""
    current = run.ledger.leases.current(run.environment.name)
    if current is not None and current.holder.dag_id.partition(".")[0] == RESTORE:
        raise ChangeRefusedError(
            f"{current.holder} restores a host, its lease ends by {current.expires_at.isoformat(timespec='seconds')}",
            is_for_now=True,
        )


class ArchiveHostsOperator(ArchiveOperator):
    """Archives every host at once, fetches each archive back and compares it. A retry makes what is missing."""

    def execute(self, context: Context) -> list[str]:
        """Returns the labels of the sets."""
        from sebenza_ops.backup.application_archives import ApplicationBackup
        from sebenza_ops.backup.archive_rules import catalog_label

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            return [catalog_label(archive) for archive in ApplicationBackup(run).back_up()]


class RetainArchivesOperator(ArchiveOperator):
    """Removes sets that are older than the policy keeps, never the last good one of a host."""

    def execute(self, context: Context) -> list[str]:
        """Returns the labels of what was removed."""
        from sebenza_ops.backup.application_archives import ApplicationBackup

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            return ApplicationBackup(run).retain()


class FinishBackupOperator(ArchiveOperator):
    """Teardown: records the outcome, stores the evidence, gives the lease back; fails when a task has failed."""

    def execute(self, context: Context) -> str:
        """Returns the run's summary."""
        from sebenza_ops.backup.application_archives import finish_backup

        run = self.begin(context)
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = tasks_that_failed(states.get(context["run_id"], {}), self.task_id)
        try:
            summary = finish_backup(run, failed, context["dag_run"].start_date or context["ti"].start_date)
        finally:
            run.release("the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary
