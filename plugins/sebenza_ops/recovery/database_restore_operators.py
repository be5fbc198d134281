"""The steps of a restore into a new database as operators. Each is thin: it finds its run, and calls a step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.change_operators import ChangeOperator, tasks_that_failed
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context


# Until the next step takes the hold on the sets again: so long may a busy scheduler take.
HOLD_SECONDS = 600.0
# A run that gives this for a set's label is asked.
CHOOSE = "choose"


class DatabaseRestoreOperator(ChangeOperator):
    """Base of the steps."""

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"restore into {context['params'].get('target_database', '')}"

    def lease_ttl_seconds(self, run: ChangeRun) -> float:
        """The lease's life without renewal."""
        from sebenza_ops.recovery.run_record import LEASE_TTL_SECONDS

        return LEASE_TTL_SECONDS


class ChooseSetOperator(HumanDecisionOperator):
    """Offers the catalog's verified sets in a form, where a run asks for it; else the run has said which."""

    UNTOUCHED = "Nothing was started."

    def execute(self, context: Context) -> Any:
        """Returns the set's label; empty for the newest."""
        from sebenza_ops.recovery.database_restore import shown_sets, verified
        from sebenza_ops.recovery.database_restore_steps import sets_of

        wanted, source = str(context["params"].get("set") or ""), str(context["params"]["source"])
        if wanted != CHOOSE:
            return wanted
        run = ChangeRun.from_context(context, self.environment)
        good = verified(sets_of(run), source)
        if not good:
            raise AirflowFailException(f"there is no verified set to choose ({source}). {self.UNTOUCHED}")
        self.options, self.body = [*dict.fromkeys(each.label for each in good), self.REJECT], shown_sets(good)
        if (event := self._answer_already_there(context)) is not None:
            return self.execute_complete(context, event)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Returns the label that was chosen."""
        chosen = (event.get("chosen_options") or [""])[0]
        # The API has taken only what was offered.
        self.options = [chosen, self.REJECT]
        if chosen != self.REJECT:
            self.approve = chosen
        super().execute_complete(context, event)
        return chosen


class PlanDatabaseRestoreOperator(DatabaseRestoreOperator, PlanOperator):
    """Takes the lease, finds the set, and refuses a name that is taken. With `plan_only` it ends there.

    Args:
        chosen: The set's label, as ChooseSetOperator returns it.
    """

    template_fields: Sequence[str] = ("chosen",)

    def __init__(self, *, chosen: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.chosen = chosen

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.database_restore import DatabaseRestoreRefusedError
        from sebenza_ops.recovery.database_restore_steps import begin
        from sebenza_ops.recovery.point_target import TargetRefusedError
        from sebenza_ops.recovery.run_record import take_lease

        refuse_unknown_conf(context)
        run = ChangeRun.from_context(context, self.environment)
        try:
            take_lease(run, self.purpose(context))
            with run.kept_lease(self.lease_ttl_seconds(run)), hold.kept(run, self.purpose(context)) as held:
                plan = begin(run, {**context["params"], "set": str(self.chosen or "")})
                held.extend_for_wait(HOLD_SECONDS)
        except (ChangeRefusedError, DatabaseRestoreRefusedError, TargetRefusedError) as error:
            run.note(str(error), "error")
            raise AirflowFailException(str(error)) from error
        data = plan.model_dump(mode="json")
        if context["params"].get("plan_only"):
            self.end_with_plan(context, run, data, f"restore {plan.words}")
        return data


class RestoreIntoOperator(DatabaseRestoreOperator):
    """Restores the set, compares it with its manifest, and gives the new database its name.

    Args:
        plan: The plan, as PlanDatabaseRestoreOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)
    ui_color = "#c9e4d0"

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns what was found. A killed attempt's jobs are found again."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.database_restore import DatabaseRestorePlan, DatabaseRestoreRefusedError
        from sebenza_ops.recovery.database_restore_steps import RestoredDiffersError, restore_into
        from sebenza_ops.recovery.run_record import JobFailedError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                with hold.kept(run, self.purpose(context)):
                    return restore_into(run, DatabaseRestorePlan.model_validate(self.plan))
            except (
                RestoredDiffersError,
                DatabaseRestoreRefusedError,
                JobFailedError,
                FencedOffError,
                ChangeRefusedError,
            ) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FinishDatabaseRestoreOperator(DatabaseRestoreOperator):
    """Teardown: removes what has no name, records the outcome, stores the evidence, gives the lease back."""

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.backup import hold
        from sebenza_ops.recovery.database_restore_steps import finish, record_of

        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        failed = tasks_that_failed(states.get(context["run_id"], {}), self.task_id)
        run = ChangeRun.from_context(context, self.environment)
        # A run that has started nothing takes no lease now: it may be another run's.
        has_started = bool(record_of(run).progress().get("plan"))
        if has_started:
            run = self.begin(context)
        try:
            with run.kept_lease(self.lease_ttl_seconds(run)) if has_started else nullcontext():
                summary = finish(
                    run, failed, plan_only=bool(context["params"].get("plan_only")), may_settle=has_started
                )
        finally:
            leases = run.ledger.leases
            current = leases.current(self.environment)
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "the run has ended")
            hold.let_go(run)
        if failed:
            raise AirflowFailException(summary)
        return summary
