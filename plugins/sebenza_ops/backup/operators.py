"""The steps of a backup as operators. Each is thin: it finds its run and environment, and calls the chapter."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import say_to_do

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.backup.plan import BackupPlan

RETRIES = 3
RETRY_DELAY = timedelta(seconds=30)


class BackupOperator(BaseOperator):
    """Base of the steps: idempotent, so retried; what works on a host is found again.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#e8e0c9"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": RETRIES, "retry_delay": RETRY_DELAY, **kwargs})
        self.environment = environment

    def find_run(self, context: Context) -> ChangeRun:
        """The run, with the lease of backups beside the environment's own."""
        from sebenza_ops.backup.steps import LEASE

        return ChangeRun.from_context(context, self.environment, lease_suffix=LEASE)

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold on the environment's backups, with a fencing token of its own."""
        from sebenza_ops.backup.steps import LEASE_TTL_SECONDS, PURPOSE

        run = self.find_run(context)
        try:
            run.begin_attempt(PURPOSE, LEASE_TTL_SECONDS)
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return run


class PlanBackupOperator(BackupOperator):
    """Takes the lease of backups, or refuses the run at once; decides type and host, and proves that WAL arrives.

    A second backup is refused. A change that makes a backup before it holds the lease for a moment: it is tried again.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.backup import watch
        from sebenza_ops.backup.errors import BackupRefusedError
        from sebenza_ops.backup.steps import LEASE_TTL_SECONDS, plan_backup, take_lease
        from sebenza_ops.systems.errors import OutsideSystemError
        from sebenza_ops.systems.ssh import kept_sessions

        run, task_instance = self.find_run(context), context["ti"]
        try:
            with kept_sessions():
                take_lease(run)
                with run.kept_lease(LEASE_TTL_SECONDS):
                    plan = plan_backup(run, str(context["params"]["type"]))
        except (ChangeRefusedError, BackupRefusedError) as error:
            is_for_now = isinstance(error, ChangeRefusedError) and error.is_for_now
            held = run.ledger.leases.current(run.lease_name)
            is_backup = held is None or held.holder.dag_id == run.holder.dag_id
            if is_for_now and not is_backup and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"to be tried again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(str(error)) from error
        except OutsideSystemError:
            # While nothing can be backed up, what would be lost grows: people learn of it now, not with the last try.
            watch.tell(run, watch.look(run))
            raise
        return plan.model_dump(mode="json")


class BackupJobOperator(BackupOperator):
    """Base of the steps that wait for a detached job: a while here, then in the triggerer, without a worker's slot.

    Args:
        plan: The plan, as PlanBackupOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def parsed_plan(self) -> Any:
        """The plan as a value."""
        from sebenza_ops.backup.plan import BackupPlan

        return BackupPlan.model_validate(self.plan)

    @abstractmethod
    def work(self, run: ChangeRun, plan: Any) -> Any:
        """Do the step. Raises JobRunning to wait."""

    def execute(self, context: Context) -> Any:
        """Returns what the step returns. Fails without a retry for what another try would not mend."""
        return self._go(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Go on after the job has ended; while it works the wait begins anew. Its host ends it after its time."""
        if event["missing"]:
            self.log.info("%s; waiting on", "; ".join(event["missing"]))
        return self._go(context)

    def _go(self, context: Context) -> Any:
        from sebenza_ops.backup.errors import BackupDamagedError, BackupRefusedError
        from sebenza_ops.backup.jobs import WAIT_SECONDS, JobRunning
        from sebenza_ops.backup.steps import LEASE_TTL_SECONDS
        from sebenza_ops.systems.errors import FencedOffError
        from sebenza_ops.systems.ssh import kept_sessions

        run = self.begin(context)
        try:
            with run.kept_lease(LEASE_TTL_SECONDS), kept_sessions():
                return self.work(run, self.parsed_plan())
        except (BackupDamagedError, BackupRefusedError, FencedOffError) as error:
            run.note(str(error), "error")
            raise AirflowFailException(str(error)) from error
        except JobRunning as running:
            self.log.info("%s; waiting in the triggerer", running)
            run.extend_for_wait(WAIT_SECONDS)
            waiting = running
        self.defer(
            trigger=waiting.trigger(),
            method_name="execute_complete",
            timeout=timedelta(seconds=WAIT_SECONDS + 60),
        )
        raise AssertionError("deferring does not return")


class BackUpOperator(BackupJobOperator):
    """Makes the physical backup with pgBackRest."""

    def work(self, run: ChangeRun, plan: BackupPlan) -> str:
        """Returns the label of the set."""
        from sebenza_ops.backup.steps import back_up

        return back_up(run, plan)


class LabelledOperator(BackupJobOperator):
    """Base of the steps that need the set that was made.

    Args:
        set_label: Its label.
    """

    template_fields: Sequence[str] = ("plan", "set_label")

    def __init__(self, *, set_label: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_label = set_label


class DumpDatabaseOperator(LabelledOperator):
    """Counts all rows and dumps the database in one snapshot, proves the dump, and sends it with its manifest.

    The verification of the repository begins on the host meanwhile, as soon as all WAL up to the snapshot is archived.
    """

    def work(self, run: ChangeRun, plan: BackupPlan) -> dict[str, Any]:
        """Returns the manifest's key, and what was counted."""
        from sebenza_ops.backup.dump_steps import dump_database

        return dump_database(run, plan, str(self.set_label))


class VerifyBackupOperator(LabelledOperator):
    """Waits until all of the repository is read back, which begins beside the dump, and looks for gaps in the WAL."""

    def work(self, run: ChangeRun, plan: BackupPlan) -> list[str]:
        """Returns what is wrong with older sets."""
        from sebenza_ops.backup.repository_steps import verify_backup

        return verify_backup(run, plan, str(self.set_label))


class FinishBackupOperator(LabelledOperator):
    """Removes what the policy does not keep, measures the recovery point, and tells what is amiss.

    Args:
        problems: What VerifyBackupOperator has found wrong with older sets.
    """

    template_fields: Sequence[str] = ("plan", "set_label", "problems")

    def __init__(self, *, problems: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problems = problems

    def work(self, run: ChangeRun, plan: BackupPlan) -> dict[str, Any]:
        """Returns the outcome, with the recovery point in seconds."""
        from sebenza_ops.backup.finish import finish_backup

        return finish_backup(run, plan, str(self.set_label), list(self.problems or ()))


class ReleaseBackupLeaseOperator(BackupOperator):
    """Teardown: gives the lease of backups back; fails when a task of the run has failed."""

    def execute(self, context: Context) -> str:
        """Release the lease, if this run holds it: one that was refused must not take it. Returns the summary."""
        run = self.find_run(context)
        current = run.ledger.leases.current(run.lease_name)
        if current is not None and current.holder.is_run(run.holder):
            run.ledger.leases.release(run.lease_name, current.token, "the run has ended")
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        found = {name: str(state) for name, state in states.get(context["run_id"], {}).items() if name != self.task_id}
        failed = [name for name, state in found.items() if state == "failed"]
        failed = failed or [name for name, state in found.items() if state == "upstream_failed"]
        if failed:
            raise AirflowFailException(f"{failed[0]} failed; its log says why. Earlier backups are untouched")
        return self.summary(context)

    def summary(self, context: Context) -> str:
        """What a run without a failure has done, in words."""
        return f"backups of {self.environment}: done"


class EndBackupOperator(ReleaseBackupLeaseOperator):
    """Teardown of a backup: says what was made, and what is amiss all the same.

    Args:
        made: What FinishBackupOperator returns; None when it did not come to it.
    """

    template_fields: Sequence[str] = ("made",)

    def __init__(self, *, made: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.made = made

    def summary(self, context: Context) -> str:
        """The set, and the recovery point that it leaves."""
        made = dict(self.made)
        say_to_do(context, made["warnings"])
        seconds = made["rpo_seconds"]
        lost = "how much would be lost now can't be told" if seconds is None else f"lost now would be {seconds:.0f} s"
        amiss = f"; {len(made['warnings'])} warnings" if made["warnings"] else ""
        return f"{self.environment}: {made['label']} ({made['type']}) is backed up, dumped and verified; {lost}{amiss}"


class WatchRecoveryPointOperator(BackupOperator):
    """Asks how much would be lost now, keeps the answer, and tells people when it is worse than the objective.

    Holds no lease: it only reads. A host that does not answer is no failure of it, as then the answer grows.
    """

    def execute(self, context: Context) -> str:
        """Returns how much would be lost now, and why, in words."""
        from sebenza_ops.backup import watch

        run = self.find_run(context)
        point = watch.look(run)
        watch.tell(run, point)
        return f"{self.environment}: {watch.words_of(point)}"
