"""The steps of a rollback as operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.deployment.operators import DeploymentOperator, PlannedOperator, failed_tasks
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

DEFAULT_KEEP_WARM_SECONDS = 1800.0
PLAN_TASK_ID = "plan_rollback"


def start_record(run: ChangeRun, requested: str, plan: Mapping[str, Any] | None = None) -> None:
    """Make the run's record where there is none, or begin it anew when the run was cleared; `plan` is for a new one."""
    from sebenza_ops.deployment.rollback_rules import STRATEGY

    deployments, holder, name = run.ledger.deployments, run.holder, run.environment.name
    is_known = deployments.find(holder.dag_id, holder.run_id) is not None
    if plan is None or not is_known:
        asked_for = requested or "last known good"
        deployments.start(name, holder.dag_id, holder.run_id, holder.actor, asked_for, None, STRATEGY)
    if plan and not is_known:
        deployments.update(holder.dag_id, holder.run_id, plan=plan)


class RollbackOperator(DeploymentOperator):
    """Base of the steps: what the lease is held for, and what a journal that begins in mid-run must know."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"emergency": True, **kwargs})

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold on the environment. A journal gets what the ledger that went down had of the run."""
        run = super().begin(context)
        self._complete_journal(run, context)
        return run

    def _complete_journal(self, run: ChangeRun, context: Context) -> None:
        if run.is_journaled:
            start_record(run, str(context["params"].get("to") or ""), context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"rollback to {context['params'].get('to') or 'the last known good release'}"


class PlanRollbackOperator(RollbackOperator, PlanOperator):
    """Takes the lease from whoever holds it, and decides what to go back to, and on which color; moves traffic at once
    when that color is warm.

    With the parameter `plan_only` the lease stays where it is, and all later steps are skipped; so are they when there
    is nothing to do, and the start of the color when it runs the release already.

    Args:
        cold_task_id: The task that is needed only when the color must be started first.
        database_task_ids: The tasks that bring the database back, for a run that asks for it.
    """

    def __init__(self, *, cold_task_id: str, database_task_ids: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cold_task_id = cold_task_id
        self.database_task_ids = database_task_ids

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.deployment.rollback import check_target, plan_rollback, take_over
        from sebenza_ops.deployment.rollback_rules import AlreadyBackError, RollbackRefusedError
        from sebenza_ops.systems.errors import FencedOffError
        from sebenza_ops.systems.ssh import kept_sessions

        refuse_unknown_conf(context)
        parameters = context["params"]
        requested, plan_only = str(parameters.get("to") or ""), bool(parameters.get("plan_only"))
        database = bool(parameters.get("database"))
        try:
            run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
            start_record(run, requested)
            policy = run.environment.policies.blue_green
            keep_warm = policy.keep_warm_seconds if policy is not None else DEFAULT_KEEP_WARM_SECONDS
            # One login for each host: each takes as long as moving the traffic itself.
            with kept_sessions():
                if requested:
                    check_target(run, requested)
                former = run.ledger.leases.current(self.environment)
                if not plan_only:
                    reason = str(parameters["reason"])
                    former = take_over(run, self.purpose(context), reason, self.lease_ttl_seconds(run))
                plan = plan_rollback(
                    run,
                    requested,
                    former,
                    float(keep_warm),
                    move=not plan_only,
                    database=database,
                )
        except AlreadyBackError as error:
            run.note(str(error), "success")
            self.skip_changes(context)
            return {}
        except (ChangeRefusedError, RollbackRefusedError, FencedOffError) as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", plan.text())
        data = plan.model_dump(mode="json")
        if plan_only:
            self.end_with_plan(context, run, data, plan.text())
        elif unneeded := self._unneeded(plan.is_warm, database):
            # A skip ends the task at once: what it returns would be lost.
            context["ti"].xcom_push(key="return_value", value=data)
            self.skip(ti=context["ti"], tasks=unneeded)
        return data

    def _unneeded(self, is_warm: bool, database: bool) -> list[Any]:
        names = (*((self.cold_task_id,) if is_warm else ()), *(() if database else self.database_task_ids))
        return [task for task in self.get_flat_relatives(upstream=False) if task.task_id in names]


class StartTargetOperator(RollbackOperator, PlannedOperator):
    """Starts the release on the color without traffic, awaits it there, and sends all traffic to it.

    One task, as another one would begin a second later, and users meet the bad release until then.
    """

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> None:
        """Raises a failure that is not tried again when it does not become healthy, or another run has taken over."""
        from sebenza_ops.deployment.rollback import start_target
        from sebenza_ops.deployment.switch import SwitchFailedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                start_target(run, self.parsed_plan())
            except (SwitchFailedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class SwitchBackOperator(RollbackOperator, PlannedOperator):
    """Sends all traffic to the release that was chosen, proves it, and marks the one that was left bad."""

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> float:
        """Returns the seconds that moving traffic took, its proof included."""
        from sebenza_ops.deployment.rollback import switch_back
        from sebenza_ops.deployment.switch import SwitchFailedError
        from sebenza_ops.deployment.traffic import SplitTrafficError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        parameters = context["params"]
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return switch_back(
                    run, self.parsed_plan(), str(parameters["reason"]), mark_bad=bool(parameters.get("mark_bad", True))
                )
            except (SwitchFailedError, SplitTrafficError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FinishRollbackOperator(RollbackOperator):
    """Teardown: records where traffic is, stores the evidence, gives the lease back. Takes nothing back by itself."""

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.deployment.finish import end_before_change, finish_run

        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = failed_tasks(states.get(context["run_id"], {}), self.task_id)
        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        # A journal that begins here knows nothing of the lease; the plan tells that the run had it.
        is_planned = run.is_journaled and bool(context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))
        if not context["params"].get("plan_only") and (is_planned or run.has_held_lease()):
            run = self.begin(context)
            try:
                remark, rejected = self._end_database(context, run, failed)
                summary = finish_run(run, failed, may_undo=False, remark=remark, rejected=rejected)
            finally:
                run.release("the run has ended")
        else:
            # A plan, and a run that was refused at once, have taken no lease, and must not now.
            self._complete_journal(run, context)
            summary = end_before_change(run, failed)
        if failed:
            raise AirflowFailException(summary)
        return summary

    def _end_database(self, context: Context, run: ChangeRun, failed: list[str]) -> tuple[str, bool]:
        """Let users in, whatever happened. Returns what the summary says of it, and whether a person has said no."""
        params = context["params"]
        plan = run.ledger.deployments.get(run.holder.dag_id, run.holder.run_id).plan
        if not params.get("database") or params.get("plan_only") or not plan:
            return "", False
        from sebenza_ops.deployment.database_exchange import conclusion
        from sebenza_ops.deployment.database_rollback_steps import progress_of, settle_database

        settle_database(run)
        text = conclusion(run, str(plan["release"]["release_id"]), failed)
        return text, progress_of(run).get("state") == "rejected"
