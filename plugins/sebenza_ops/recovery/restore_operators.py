"""The steps of an application host's restore, as operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.change_operators import ChangeOperator, tasks_that_failed
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.application_restore import RestorePlan


class RestoreOperator(ChangeOperator):
    """Base of the steps."""

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"restore_application {context['params'].get('host', '')}".strip()


class AcquireRestoreLeaseOperator(RestoreOperator):
    """Takes the environment's lease, or refuses the run at once."""

    def execute(self, context: Context) -> int:
        """Returns the fencing token."""
        from sebenza_ops.leases import take_and_tell
        from sebenza_ops.ledger import LeaseKind

        refuse_unknown_conf(context)
        run = ChangeRun.from_context(context, self.environment)
        is_plan = bool(context["params"].get("plan_only"))
        try:
            return take_and_tell(
                run,
                self.purpose(context),
                self.lease_ttl_seconds(run),
                LeaseKind.HOUSEKEEPING if is_plan else LeaseKind.CHANGE,
                respect_freeze=not is_plan,
            )
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error


class PlanRestoreOperator(RestoreOperator, PlanOperator):
    """Looks at load balancers, peers, archive and host, and refuses or plans. With `plan_only` it ends there."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.recovery.application_restore import plan_restore
        from sebenza_ops.recovery.restore_rules import RestoreRefusedError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                plan = plan_restore(run, context["params"])
            except RestoreRefusedError as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error
        if context["params"].get("plan_only"):
            self.end_with_plan(context, run, plan.model_dump(mode="json"), plan.text())
        return plan.model_dump(mode="json")


class PlannedRestoreOperator(RestoreOperator):
    """Base of the steps that carry out a plan.

    Args:
        plan: The plan, as PlanRestoreOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def parsed_plan(self) -> RestorePlan:
        """The plan as a value."""
        from sebenza_ops.recovery.application_restore import RestorePlan

        return RestorePlan.model_validate(self.plan)


class RestoreFilesOperator(PlannedRestoreOperator):
    """Takes the host out of rotation, unpacks the archive beside, compares, places, compares."""

    def execute(self, context: Context) -> None:
        """A retry goes on where the files are."""
        from sebenza_ops.recovery.application_restore import restore_files
        from sebenza_ops.recovery.restore_rules import RestoreRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                restore_files(run, self.parsed_plan())
            except (RestoreRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class StartAndProveOperator(PlannedRestoreOperator):
    """Fetches the release, starts the services, proves the host from everywhere, puts it back into rotation."""

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> str:
        """Returns a summary."""
        from sebenza_ops.recovery.application_restore import start_and_prove
        from sebenza_ops.recovery.restore_rules import RestoreRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return start_and_prove(run, self.parsed_plan())
            except (RestoreRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FinishRestoreOperator(RestoreOperator):
    """Teardown: records the outcome, stores the evidence, gives the lease back; fails when a task has failed.

    Args:
        proven: What StartAndProveOperator returns; None when it did not come to it.
    """

    template_fields: Sequence[str] = ("proven",)

    def __init__(self, *, proven: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.proven = proven

    def execute(self, context: Context) -> str:
        """Returns the run's summary."""
        from sebenza_ops.recovery.application_restore import finish_restore

        run = self.begin(context)
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = tasks_that_failed(states.get(context["run_id"], {}), self.task_id)
        started_at = context["dag_run"].start_date or context["ti"].start_date
        try:
            summary = finish_restore(
                run, str(context["params"]["host"]), failed, started_at, str(self.proven) if self.proven else None
            )
        finally:
            run.release("the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary
