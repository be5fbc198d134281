"""Proving a backup set by restoring it, as operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.backup.operators import BackupJobOperator, BackupOperator, ReleaseBackupLeaseOperator
from sebenza_ops.change_operators import tasks_that_failed
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
        from sebenza_ops.systems.ssh import kept_sessions

        run, task_instance = self.find_run(context), context["ti"]
        try:
            with kept_sessions():
                take_lease(run)
                with run.kept_lease(LEASE_TTL_SECONDS):
                    plan = plan_restore_test(run, str(context["params"].get("set") or ""))
        except ChangeRefusedError as error:
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"to be tried again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(str(error)) from error
        except BackupRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return plan.model_dump(mode="json")


class RestoreTestOperator(BackupJobOperator):
    """Base of the steps that carry out a restore test's plan."""

    def parsed_plan(self) -> RestorePlan:
        """The plan as a value."""
        from sebenza_ops.backup.restore_steps import RestorePlan

        return RestorePlan.model_validate(self.plan)


class CheckRepositoryOperator(RestoreTestOperator):
    """Reads the whole repository and every dump back, in the weekly run and where a run asks for it.

    What is damaged is told at once; the restore is tried all the same.

    Args:
        whole: Whether it is wanted: yes, no, or auto for the weekly run only; a template.
        run_type: The run's type; a template.
    """

    template_fields: Sequence[str] = ("plan", "whole", "run_type")

    def __init__(
        self, *, whole: str = "{{ params.repository }}", run_type: str = "{{ dag_run.run_type }}", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.whole = whole
        self.run_type = run_type

    def work(self, run: ChangeRun, plan: RestorePlan) -> list[str]:
        """Returns what is wrong, one text a file or set."""
        from sebenza_ops.backup.repository_steps import check_repository

        if not is_whole_wanted(str(self.whole), str(self.run_type)):
            self.log.info("the backup that came before has read the repository back; this run does not")
            return []
        return check_repository(run, plan.host, f"{plan.job}-verify")


def is_whole_wanted(whole: str, run_type: str) -> bool:
    """Whether a run reads everything back: as it asks, else the one that the calendar has begun."""
    # Rendered as the member's name or its value.
    return whole == "yes" or (whole == "auto" and run_type.rpartition(".")[2].lower() == "scheduled")


class ConcludeRestoreTestOperator(RestoreTestOperator):
    """Fails the run when anything in the repository is damaged, after the restore was tried.

    Args:
        problems: What CheckRepositoryOperator has found.
    """

    template_fields: Sequence[str] = ("plan", "problems")

    def __init__(self, *, problems: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problems = problems

    def work(self, run: ChangeRun, plan: RestorePlan) -> str:
        """Returns a summary."""
        from sebenza_ops.backup.errors import BackupDamagedError

        problems = [str(each) for each in self.problems or ()]
        if problems:
            raise BackupDamagedError(
                f"{plan.label} was restored, and the repository is damaged elsewhere: {'; '.join(problems)}. Make a "
                "full backup (backup_database, type: full), and look at the storage"
            )
        return f"{plan.label} was restored, nothing is known to be damaged"


class FinishRestoreTestOperator(ReleaseBackupLeaseOperator):
    """Teardown: records the outcome, stores the evidence, gives the lease back; fails when a task has failed."""

    def execute(self, context: Context) -> str:
        """Only the last part can fail the run. Returns the summary."""
        from sebenza_ops.backup.restore_steps import finish_restore_test

        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = tasks_that_failed(states.get(context["run_id"], {}), self.task_id)
        started_at = context["dag_run"].start_date or context["ti"].start_date
        summary = finish_restore_test(self.find_run(context), failed, started_at)
        super().execute(context)
        return summary


class RestoreSetOperator(RestoreTestOperator):
    """Restores the set into a scratch instance, checks it, and compares it with its manifest."""

    def work(self, run: ChangeRun, plan: RestorePlan) -> dict[str, Any]:
        """Returns what was measured."""
        from sebenza_ops.backup.restore_steps import restore_set

        return restore_set(run, plan)
