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


class AcquireBackupLeaseOperator(ChangeOperator):
    """Takes the lease as housekeeping: steps back while a change holds it. That no backup was made is a failure.

    A freeze does not stop it: nothing of the environment changes.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"retries": HOUSEKEEPING_RETRIES, "retry_delay": HOUSEKEEPING_RETRY_DELAY, **kwargs})

    def execute(self, context: Context) -> int:
        """Returns the fencing token."""
        from sebenza_ops.leases import take_and_tell
        from sebenza_ops.ledger import LeaseKind

        refuse_unknown_conf(context)
        run = ChangeRun.from_context(context, self.environment)
        ttl_seconds = self.lease_ttl_seconds(run)
        try:
            return take_and_tell(run, self.purpose(context), ttl_seconds, LeaseKind.HOUSEKEEPING, respect_freeze=False)
        except ChangeRefusedError as error:
            task_instance = context["ti"]
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"stepping back, to try again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(f"no backup was made: {error}") from error


class ArchiveHostsOperator(ChangeOperator):
    """Archives every host at once, fetches each archive back and compares it. A retry makes what is missing."""

    def execute(self, context: Context) -> list[str]:
        """Returns the labels of the sets."""
        from sebenza_ops.backup.application_archives import ApplicationBackup
        from sebenza_ops.backup.archive_rules import catalog_label

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            return [catalog_label(archive) for archive in ApplicationBackup(run).back_up()]


class RetainArchivesOperator(ChangeOperator):
    """Removes sets that are older than the policy keeps, never the last good one of a host."""

    def execute(self, context: Context) -> list[str]:
        """Returns the labels of what was removed."""
        from sebenza_ops.backup.application_archives import ApplicationBackup

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            return ApplicationBackup(run).retain()


class FinishBackupOperator(ChangeOperator):
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
