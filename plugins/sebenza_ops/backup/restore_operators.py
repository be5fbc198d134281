"""Proving a backup set by restoring it, as operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.backup.operators import BackupJobOperator, BackupOperator
from sebenza_ops.changes import ChangeRefusedError, ChangeRun

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.backup.restore_steps import RestorePlan


class PlanRestoreTestOperator(BackupOperator):
    """Takes the lease of backups, so that no set goes meanwhile; chooses the set and the host.

    The backup that has set it off may still be giving its lease back: then it is tried again.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.backup.errors import BackupRefusedError
        from sebenza_ops.backup.restore_steps import plan_restore_test
        from sebenza_ops.backup.steps import LEASE_TTL_SECONDS, take_lease

        run, task_instance = self.find_run(context), context["ti"]
        try:
            take_lease(run)
            with run.kept_lease(LEASE_TTL_SECONDS):
                plan = plan_restore_test(run, str(context["params"]["set"]))
        except ChangeRefusedError as error:
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"to be tried again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(str(error)) from error
        except BackupRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return plan.model_dump(mode="json")


class RestoreSetOperator(BackupJobOperator):
    """Restores the set into a scratch instance, checks it, and compares it with its manifest."""

    def parsed_plan(self) -> RestorePlan:
        """The plan as a value."""
        from sebenza_ops.backup.restore_steps import RestorePlan

        return RestorePlan.model_validate(self.plan)

    def work(self, run: ChangeRun, plan: RestorePlan) -> dict[str, Any]:
        """Returns what was measured."""
        from sebenza_ops.backup.restore_steps import restore_set

        return restore_set(run, plan)
