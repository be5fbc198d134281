"""The steps of a refresh, as operators: two work on the source, the others on the environment that gets the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from sebenza_ops.backup.operators import BackupJobOperator, BackupOperator
from sebenza_ops.change_operators import (
    HOUSEKEEPING_RETRIES,
    HOUSEKEEPING_RETRY_DELAY,
    ChangeOperator,
    tasks_that_failed,
)
from sebenza_ops.changes import ChangeRefusedError, ChangeRun, find_environment

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.refresh_steps import RefreshPlan, Snapshot


class PlanRefreshOperator(BackupOperator):
    """Takes the lease of the source's backups, so that no set goes meanwhile; chooses the set and the host.

    Args:
        environment: The source.
        target: The environment that gets the data.
    """

    def __init__(self, *, target: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": HOUSEKEEPING_RETRIES, "retry_delay": HOUSEKEEPING_RETRY_DELAY, **kwargs})
        self.target = target

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan. While a backup works it comes back later."""
        from sebenza_ops.backup.errors import BackupRefusedError
        from sebenza_ops.backup.steps import LEASE_TTL_SECONDS, take_lease
        from sebenza_ops.recovery.refresh_steps import plan_refresh

        run, task_instance = self.find_run(context), context["ti"]
        try:
            take_lease(run)
            with run.kept_lease(LEASE_TTL_SECONDS):
                plan = plan_refresh(run, find_environment(self.target), str(context["params"].get("set") or ""))
        except ChangeRefusedError as error:
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"stepping back, to try again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(str(error)) from error
        except BackupRefusedError as error:
            run.note(str(error), "error")
            raise AirflowFailException(str(error)) from error
        return plan.model_dump(mode="json")


class TakeSnapshotOperator(BackupJobOperator):
    """Restores the set on the source's host, anonymizes it there, and sends the dump; gives the source's lease back.

    Args:
        environment: The source.
    """

    def parsed_plan(self) -> RefreshPlan:
        """The plan as a value."""
        from sebenza_ops.recovery.refresh_steps import RefreshPlan

        return RefreshPlan.model_validate(self.plan)

    def work(self, run: ChangeRun, plan: RefreshPlan) -> dict[str, Any]:
        """Returns the snapshot."""
        from sebenza_ops.recovery.refresh_steps import take_snapshot

        snapshot = take_snapshot(run, plan, find_environment(plan.environment))
        run.release("the snapshot is taken")
        return snapshot.model_dump(mode="json")


class RefreshOperator(ChangeOperator):
    """Base of the steps on the environment that gets the data."""

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return "refresh of the database"


class AcquireRefreshLeaseOperator(RefreshOperator):
    """Takes the lease of the environment that gets the data; steps back while others hold or have reserved it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"retries": HOUSEKEEPING_RETRIES, "retry_delay": HOUSEKEEPING_RETRY_DELAY, **kwargs})

    def execute(self, context: Context) -> int:
        """Returns the fencing token."""
        from sebenza_ops.leases import take_and_tell
        from sebenza_ops.ledger import LeaseKind

        run, task_instance = self.find_run(context), context["ti"]
        try:
            return take_and_tell(
                run, self.purpose(context), self.lease_ttl_seconds(run), LeaseKind.CHANGE, respect_freeze=True
            )
        except ChangeRefusedError as error:
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"stepping back, to try again in {self.retry_delay}: {error}") from error
            raise AirflowFailException(str(error)) from error


class PlannedRefreshOperator(RefreshOperator):
    """Base of the steps that carry out a plan.

    Args:
        plan: The plan, as PlanRefreshOperator returns it.
        snapshot: The snapshot, as TakeSnapshotOperator returns it.
    """

    template_fields: Sequence[str] = ("plan", "snapshot")

    def __init__(self, *, plan: Any, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.snapshot = snapshot

    def parsed(self) -> tuple[RefreshPlan, Snapshot]:
        """Both as values."""
        from sebenza_ops.recovery.refresh_steps import RefreshPlan, Snapshot

        return RefreshPlan.model_validate(self.plan), Snapshot.model_validate(self.snapshot)


class RestoreSnapshotOperator(PlannedRefreshOperator):
    """Restores the snapshot beside, looks through it again, brings it to the schema of the release that runs."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the copy. A killed attempt's restore is found again."""
        from sebenza_ops.recovery.refresh_exchange import RefreshFailedError, restore_beside
        from sebenza_ops.recovery.restore_rules import RestoreRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        plan, snapshot = self.parsed()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return restore_beside(run, plan, snapshot).model_dump(mode="json")
            except (RefreshFailedError, RestoreRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class ExchangeDatabaseOperator(PlannedRefreshOperator):
    """Puts the copy in the database's place, proves that the application works with it, or takes it back.

    Args:
        copy: The copy, as RestoreSnapshotOperator returns it.
    """

    template_fields = (*PlannedRefreshOperator.template_fields, "copy")
    ui_color = "#f4cccc"

    def __init__(self, *, copy: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy = copy

    def execute(self, context: Context) -> str:
        """Returns a summary. A killed attempt is gone on with, whatever it had done."""
        from sebenza_ops.recovery.refresh_exchange import Copy, RefreshFailedError, exchange
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        plan, snapshot = self.parsed()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return exchange(run, plan, snapshot, Copy.model_validate(self.copy))
            except (RefreshFailedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FinishRefreshOperator(PlannedRefreshOperator):
    """Teardown: tidies, records the outcome, stores the evidence, gives leases back; fails when a task has failed.

    Args:
        source: The environment whose backups were held.
        exchanged: What ExchangeDatabaseOperator returns; None when it did not come to it.
    """

    template_fields = (*PlannedRefreshOperator.template_fields, "exchanged")

    def __init__(self, *, source: str, exchanged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.exchanged = exchanged

    def execute(self, context: Context) -> str:
        """Returns the run's summary."""
        from sebenza_ops.backup.steps import LEASE
        from sebenza_ops.recovery.refresh_exchange import settle
        from sebenza_ops.recovery.refresh_finish import finish_refresh
        from sebenza_ops.recovery.refresh_steps import RefreshPlan, Snapshot

        run = self.find_run(context)
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = tasks_that_failed(states.get(context["run_id"], {}), self.task_id)
        current = run.ledger.leases.current(self.environment)
        is_held = current is not None and current.holder.is_run(run.holder)
        if is_held:
            run = self.begin(context)
            if self.plan:
                snapshot = Snapshot.model_validate(self.snapshot) if self.snapshot else None
                settle(run, RefreshPlan.model_validate(self.plan), snapshot)
        started_at = context["dag_run"].start_date or context["ti"].start_date
        try:
            summary = finish_refresh(run, failed, started_at, str(self.exchanged) if self.exchanged else None)
        finally:
            for name in (self.environment, f"{self.source}.{LEASE}"):
                lease = run.ledger.leases.current(name)
                if lease is not None and lease.holder.is_run(run.holder):
                    run.ledger.leases.release(name, lease.token, "the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary
