"""The steps of a deployment as operators. Each is thin: it finds its run and environment, and calls the chapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from sebenza_ops.change_operators import (
    HOUSEKEEPING_RETRIES,
    HOUSEKEEPING_RETRY_DELAY,
    ChangeOperator,
    tasks_that_failed,
)
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator, say
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.deployment.plan import DeploymentPlan, Strategy

# What a run that began with a way in keeps as progress.
WAY_IN = "way_in"
GATES_GROUP, JUDGE_GATES = "gates", "judge_gates"


def gate_task_id(gate: str) -> str:
    """The task of a gate, in its group."""
    return f"{GATES_GROUP}.{gate}"


class DeploymentOperator(ChangeOperator):
    """Base of the steps of a deployment."""


class AcquireLeaseOperator(DeploymentOperator):
    """Takes the environment's lease, or refuses the run at once; checks the run's conf before anything is touched.

    Args:
        check: Checks the run's parameters; raises ValueError that names the field.
        housekeeping: The run changes nothing that a later change must not undo; while the lease is held it steps back
            and tries again, and is skipped at last.
        strategy: How a deployment moves traffic, for the ledger.
        after_way_in: Gates and people came before it. A run that began with them does not go on without.
    """

    def __init__(
        self,
        *,
        check: Callable[[Any], None] | None = None,
        housekeeping: bool = False,
        strategy: str = "blue_green",
        after_way_in: bool = False,
        **kwargs: Any,
    ) -> None:
        if housekeeping:
            kwargs = {"retries": HOUSEKEEPING_RETRIES, "retry_delay": HOUSEKEEPING_RETRY_DELAY, **kwargs}
        super().__init__(**kwargs)
        self.check = check
        self.housekeeping = housekeeping
        self.strategy = strategy
        self.after_way_in = after_way_in

    def execute(self, context: Context) -> int:
        """Returns the fencing token."""
        from sebenza_ops.deployment.steps import take_lease

        refuse_unknown_conf(context)
        if self.check is not None:
            try:
                self.check(context["params"])
            except ValueError as error:
                raise AirflowFailException(f"refused, nothing was touched: {error}") from error
        try:
            run = ChangeRun.from_context(context, self.environment)
            progress = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
            if not self.after_way_in and progress is not None and progress.progress.get(WAY_IN):
                raise ChangeRefusedError(
                    f"{self.environment}'s policy no longer asks for what this run was waiting for. Nothing was "
                    "changed. Start a new run."
                )
            return take_lease(
                run,
                purpose=self.purpose(context),
                ttl_seconds=self.lease_ttl_seconds(run),
                version=str(context["params"].get("version", "")),
                housekeeping=self.housekeeping,
                plan_only=bool(context["params"].get("plan_only")),
                strategy=self.strategy,
            )
        except ChangeRefusedError as error:
            if not self.housekeeping:
                raise AirflowFailException(str(error)) from error
            task_instance = context["ti"]
            if error.is_for_now and task_instance.try_number <= task_instance.max_tries:
                raise AirflowException(f"stepping back, to try again in {self.retry_delay}: {error}") from error
            say(context, f"nothing was changed: {error}")
            raise AirflowSkipException(str(error)) from error


class PlanDeploymentOperator(DeploymentOperator, PlanOperator):
    """Compares load balancers, processes and markers, and plans; changes nothing.

    With the parameter `plan_only`, or when the release is live already, all later steps are skipped.

    Args:
        release: The release's manifest, as BuildReleaseOperator returns it.
        is_draft: The plan is for people to decide by, and made without the lease; another one is made after.
        approved: The draft that people have decided by; a plan that differs from it is refused.
        strategy: How the deployment moves traffic.
    """

    template_fields = ("release", "approved")

    def __init__(
        self,
        *,
        release: Any,
        is_draft: bool = False,
        approved: Any = None,
        strategy: Strategy = "blue_green",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.strategy = strategy
        self.release = release
        self.is_draft = is_draft
        self.approved = approved

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.deployment.plan import AlreadyLiveError, DeploymentConflictError, ReleaseRefusedError
        from sebenza_ops.deployment.planning import plan_deployment

        run = ChangeRun.from_context(context, self.environment) if self.is_draft else self.begin(context)
        try:
            plan = plan_deployment(run, self.release, context["params"], is_draft=self.is_draft, strategy=self.strategy)
        except AlreadyLiveError as error:
            run.note(str(error), "success")
            self.skip_changes(context)
            return {}
        except (ChangeRefusedError, DeploymentConflictError, ReleaseRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", plan.text())
        if self.approved:
            self._check_approved(run, plan, context)
        if context["params"].get("plan_only"):
            self.end_with_plan(context, run, plan.model_dump(mode="json"), plan.text())
        return plan.model_dump(mode="json")

    def _check_approved(self, run: ChangeRun, plan: DeploymentPlan, context: Context) -> None:
        from sebenza_ops.deployment.briefs import ApprovalOutdatedError, check_still_as_approved
        from sebenza_ops.deployment.plan import DeploymentPlan as Plan

        approved = Plan.model_validate(self.approved)
        try:
            check_still_as_approved(run, plan, approved, str(context["params"]["version"]))
        except ApprovalOutdatedError as error:
            raise AirflowFailException(str(error)) from error


class PlannedOperator(DeploymentOperator):
    """Base of the steps that carry out a plan.

    Args:
        plan: The plan, as PlanDeploymentOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def parsed_plan(self) -> DeploymentPlan:
        """The plan as a value."""
        from sebenza_ops.deployment.plan import DeploymentPlan

        return DeploymentPlan.model_validate(self.plan)


class DeployToIdleColorOperator(PlannedOperator):
    """Installs the release on all application hosts at once, expands the schema, and starts the idle color."""

    def execute(self, context: Context) -> None:
        """Raises a failure that is not retried when the environment has changed since the plan."""
        from sebenza_ops.deployment.migrations import SchemaChangeError
        from sebenza_ops.deployment.steps import PlanOutdatedError, deploy_to_idle_color
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                deploy_to_idle_color(run, self.parsed_plan())
            except (PlanOutdatedError, FencedOffError, SchemaChangeError) as error:
                raise AirflowFailException(str(error)) from error


class PrepareHostsOperator(PlannedOperator):
    """Installs the release on all application hosts at once, and expands the schema; what runs is not touched."""

    def execute(self, context: Context) -> None:
        """Raises a failure that is not retried when the environment has changed since the plan."""
        from sebenza_ops.deployment.migrations import SchemaChangeError
        from sebenza_ops.deployment.steps import PlanOutdatedError, prepare_hosts
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                prepare_hosts(run, self.parsed_plan())
            except (PlanOutdatedError, FencedOffError, SchemaChangeError) as error:
                raise AirflowFailException(str(error)) from error


class RollOutOperator(PlannedOperator):
    """Changes the live color's hosts one batch after another, proves and watches each, and goes back on a trigger.

    One task, so that a trigger is acted on within a second; killed, it goes on with the batch that it was at.
    """

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the requests that the release has answered while it was watched, and how many failed."""
        from sebenza_ops.deployment.roll_out import RollOut
        from sebenza_ops.deployment.switch import ReleaseRejectedError, SwitchFailedError
        from sebenza_ops.deployment.traffic import TrafficControl
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)), TrafficControl(run.environment) as control:
            try:
                decision = RollOut(run, self.parsed_plan(), control).execute()
            except (ReleaseRejectedError, SwitchFailedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error
        return {"requests": decision.requests, "errors": decision.errors}


class SwitchProveAndBakeOperator(PlannedOperator):
    """Moves traffic on every load balancer, proves it by two sources, watches it, and moves it back on a trigger.

    One task, so that a trigger is acted on within a second; killed, it goes on where the load balancers are.
    """

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the new color's requests and errors; and which color is kept warm now, with what, and until when."""
        from sebenza_ops.deployment.switch import ReleaseRejectedError, SwitchFailedError, TrafficSwitch
        from sebenza_ops.deployment.traffic import SplitTrafficError, TrafficControl
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        plan = self.parsed_plan()
        with run.kept_lease(self.lease_ttl_seconds(run)), TrafficControl(run.environment) as control:
            try:
                decision = TrafficSwitch(run, plan, control).execute()
            except (ReleaseRejectedError, SwitchFailedError, SplitTrafficError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error
        stop_at = datetime.now(UTC) + timedelta(seconds=plan.keep_warm_seconds)
        return {
            "requests": decision.requests,
            "errors": decision.errors,
            "warm_color": plan.from_color.value,
            "warm_release_id": plan.from_release or "",
            "stop_at": stop_at.isoformat(),
        }


class RecordDeploymentOperator(PlannedOperator):
    """Writes the last known good release, on the hosts and in the ledger; then removes releases that nobody needs."""

    def execute(self, context: Context) -> None:
        """Write it everywhere."""
        from sebenza_ops.deployment.steps import prune_releases, record_deployment
        from sebenza_ops.systems.ssh import kept_sessions

        run, plan = self.begin(context), self.parsed_plan()
        with kept_sessions():
            record_deployment(run, plan)
            prune_releases(run, plan)


class ReleaseLeaseOperator(DeploymentOperator):
    """Teardown of a change that needs no settling: gives the lease back; fails when a task of the run has failed.

    Args:
        said: What the change has said of itself (`conclusion.SENTENCE`); None when it did not come to it.
    """

    template_fields: Sequence[str] = ("said",)

    def __init__(self, *, said: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.said = said

    def execute(self, context: Context) -> str:
        """Release the lease. Returns what the change has said."""
        run = self.begin(context)
        run.release("the run has ended")
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = failed_tasks(states.get(context["run_id"], {}), self.task_id)
        if failed:
            raise AirflowFailException(f"{failed[0]} failed; its log says why")
        return str(self.said or f"{self.environment}: nothing was changed")


class FinishDeploymentOperator(DeploymentOperator):
    """Teardown: leaves exactly one live color, whatever happened before; stores the evidence; gives the lease back.

    A release that had not passed when the run ended (marked failed by hand, out of retries) is taken back.

    Args:
        has_way_in: The run may end before it has ever held the lease; then there is nothing to settle.
    """

    def __init__(self, *, has_way_in: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.has_way_in = has_way_in

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.deployment.finish import end_before_change, finish_run

        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = failed_tasks(states.get(context["run_id"], {}), self.task_id)
        if self.has_way_in:
            waiting = ChangeRun.from_context(context, self.environment)
            waiting.ledger.leases.release_reservation(self.environment, waiting.holder, "the run has ended")
            if not waiting.has_held_lease():
                summary = end_before_change(waiting, failed)
                if failed:
                    raise AirflowFailException(summary)
                return summary
        run = self.begin(context)
        try:
            # Divided traffic fails the attempt, and the next one tries to mend it again.
            with run.kept_lease(self.lease_ttl_seconds(run)):
                summary = finish_run(run, failed)
        finally:
            run.release("the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary


def failed_tasks(states: dict[str, Any], own_task_id: str) -> list[str]:
    """The tasks that failed, first those that failed themselves. A gate that was judged has failed for nobody."""
    if str(states.get(JUDGE_GATES)) == "success":
        states = {name: state for name, state in states.items() if not name.startswith(f"{GATES_GROUP}.")}
    return tasks_that_failed(states, own_task_id)
