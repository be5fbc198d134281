"""The steps of a point-in-time restore as operators. Each is thin: it finds its run, and calls a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.change_operators import RETRIES, ChangeOperator, tasks_that_failed
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.procedures import refuse_unknown_conf
from sebenza_ops.recovery.switch_operators import ApproveSwitchOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.point_plan import PointPlan
    from sebenza_ops.recovery.point_steps import RestoredPoint

PLAN_TASK_ID = "plan_restore"
BACK_UP_TASK_ID = "back_up_anew"
# Until the next step takes the hold on the sets again: so long may a busy scheduler take.
HOLD_SECONDS = 600.0


class PointOperator(ChangeOperator):
    """Base of the steps."""

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"restore to {context['params'].get('target_type', '')} {context['params'].get('target', '')}"

    def lease_ttl_seconds(self, run: ChangeRun) -> float:
        """The lease's life without renewal."""
        from sebenza_ops.recovery.run_record import LEASE_TTL_SECONDS

        return LEASE_TTL_SECONDS


class PlanPointRestoreOperator(PointOperator, PlanOperator):
    """Takes the lease, and holds the target against what the archive can reach. With `plan_only` it ends there."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.point_steps import begin
        from sebenza_ops.recovery.point_target import TargetRefusedError, parse_target
        from sebenza_ops.recovery.run_record import JobFailedError, excluded_people, take_lease

        refuse_unknown_conf(context)
        params = context["params"]
        run = ChangeRun.from_context(context, self.environment)
        try:
            # A slip of the pen is told before anything is asked of a host.
            parse_target(str(params["target_type"]), str(params["target"]), exclusive=bool(params["exclusive"]))
            take_lease(run, self.purpose(context))
            with run.kept_lease(self.lease_ttl_seconds(run)), hold.kept(run, self.purpose(context)) as held:
                plan = begin(run, params)
                held.extend_for_wait(HOLD_SECONDS)
        except (ChangeRefusedError, TargetRefusedError, JobFailedError) as error:
            run.note(str(error), "error")
            raise AirflowFailException(str(error)) from error
        data = plan.model_dump(mode="json")
        # A skip ends the task at once: what it returns would be lost.
        context["ti"].xcom_push(key="return_value", value=data)
        # Under a key of its own: the question takes it apart.
        context["ti"].xcom_push(key="excluded", value=excluded_people(run))
        if params.get("plan_only"):
            self.end_with_plan(context, run, data, f"restore {plan.words}\nthe archive reaches {plan.reach}")
        return data


class PlannedPointOperator(PointOperator):
    """Base of the steps that carry out a plan.

    Args:
        plan: The plan, as PlanPointRestoreOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def parsed_plan(self) -> PointPlan:
        """The plan as a value."""
        from sebenza_ops.recovery.point_plan import PointPlan

        return PointPlan.model_validate(self.plan)


class RestoreBesideOperator(PlannedPointOperator):
    """Restores the cluster beside the running one, checks it, and holds it against what is there now."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the copy, and as `text` what the question shows. A killed attempt's restore is found again."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.point_steps import PointRestoreError, restore_beside
        from sebenza_ops.recovery.run_record import JobFailedError, excluded_people
        from sebenza_ops.systems.errors import FencedOffError

        run, reason = self.begin(context), str(context["params"]["reason"])
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                with hold.kept(run, self.purpose(context)):
                    copy = restore_beside(run, self.parsed_plan(), reason, excluded_people(run))
            except (JobFailedError, PointRestoreError, FencedOffError, ChangeRefusedError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error
        # The copy is whole: what it came from may be removed while people decide.
        hold.let_go(run)
        return copy.model_dump(mode="json")


class ApprovePointRestoreOperator(ApproveSwitchOperator):
    """Asks whether the restored cluster takes the place of the running one, with the environment reserved meanwhile.

    Always asked, whatever the environment's policy; the policy says who may not approve.
    """

    UNTOUCHED = "The database was not changed; the restored copy is removed."


class RestoredPointOperator(PlannedPointOperator):
    """Base of the steps after the approval.

    Args:
        copy: The copy, as RestoreBesideOperator returns it.
        approved_by: Who has approved; a template.
    """

    template_fields = (*PlannedPointOperator.template_fields, "copy", "approved_by")

    def __init__(self, *, copy: Any, approved_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy, self.approved_by = copy, approved_by

    def restored(self) -> RestoredPoint:
        """The copy as a value."""
        from sebenza_ops.recovery.point_steps import RestoredPoint

        return RestoredPoint.model_validate(self.copy)


class ExchangeClusterOperator(RestoredPointOperator):
    """Moves the running cluster aside, puts the restored one in its place, and lets clients in."""

    ui_color = "#f4cccc"

    def execute(self, context: Context) -> str:
        """Returns a summary. A killed attempt is gone on with, whatever it had done."""
        from sebenza_ops.recovery.point_exchange import ExchangeFailedError, exchange
        from sebenza_ops.recovery.point_target import TargetRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return exchange(run, self.parsed_plan(), self.restored(), str(self.approved_by))
            except (ExchangeFailedError, TargetRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class RebuildReplicaOperator(RestoredPointOperator):
    """Makes the other server the restored one's replica: rewound, or copied anew."""

    def execute(self, context: Context) -> str:
        """Returns how. A killed attempt's rebuild is found again."""
        from sebenza_ops.recovery.point_exchange import replica_plan
        from sebenza_ops.recovery.rejoin import RejoinFailedError, rejoin
        from sebenza_ops.recovery.switch_plan import SwitchRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run, plan = self.begin(context), self.parsed_plan()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return rejoin(run, replica_plan(plan, self.restored()), str(self.approved_by))
            except (RejoinFailedError, SwitchRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class VerifyPointRestoreOperator(RestoredPointOperator):
    """Proves by two sources who is the primary, that its replica follows, that the rows are there and are archived."""

    ui_color = "#d9ead3"

    def execute(self, context: Context) -> str:
        """Returns what was proven."""
        from sebenza_ops.recovery.point_exchange import ExchangeFailedError, prove, replica_plan
        from sebenza_ops.recovery.rejoin import NotProvenError, verify

        run, plan, restored = self.begin(context), self.parsed_plan(), self.restored()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return f"{prove(run, plan, restored)}; {verify(run, replica_plan(plan, restored))}"
            except (ExchangeFailedError, NotProvenError) as error:
                run.note(str(error), "error")
                raise


class BackUpAnewOperator(TriggerDagRunOperator):
    """Starts the full backup that is due on a new timeline, and does not wait for it.

    Give it a run id that is the same at each try: a try that was killed may have made the run.
    """

    safe_to_retry = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **{"retries": RETRIES, "retry_delay": timedelta(0), "skip_when_already_exists": True, **kwargs}
        )


class FinishPointRestoreOperator(PointOperator):
    """Teardown: no copy is left, nobody is held; records the outcome, stores the evidence, gives the lease back.

    Args:
        backup_run: The run of the backup that was started, for the summary; a template.
    """

    template_fields: Sequence[str] = ("backup_run",)

    def __init__(self, *, backup_run: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backup_run = backup_run

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.point_finish import finish
        from sebenza_ops.recovery.point_steps import record_of

        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        found = states.get(context["run_id"], {})
        failed = tasks_that_failed(found, self.task_id)
        backup_run = self.backup_run if str(found.get(BACK_UP_TASK_ID)) in {"success", "skipped"} else ""
        plan_only = bool(context["params"].get("plan_only"))
        run = ChangeRun.from_context(context, self.environment)
        # A run that has started nothing takes no lease now: it may be another run's.
        has_started = bool(record_of(run).progress().get("plan"))
        if has_started:
            run = self.begin(context)
        try:
            with run.kept_lease(self.lease_ttl_seconds(run)) if has_started else nullcontext():
                summary = finish(run, failed, plan_only=plan_only, may_settle=has_started, backup_run=backup_run)
        finally:
            leases = run.ledger.leases
            current = leases.current(self.environment)
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "the run has ended")
            leases.release_reservation(self.environment, run.holder, "the run has ended")
            hold.let_go(run)
        if failed:
            raise AirflowFailException(summary)
        return summary
