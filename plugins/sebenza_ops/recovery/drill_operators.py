"""The steps of a disaster recovery drill, and of the escrow that it proves, as operators."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.disaster_drill import DrillPlan

TTL_SECONDS = 300.0
# Beside the environment's own lease: a drill changes nothing that a deployment or a recovery would have to wait for.
LEASE_SUFFIX = "drill"
PLAN_TASK_ID, RESTORE_TASK_ID, SERVE_TASK_ID = "plan_drill", "restore_copy", "serve_copy"


class DrillOperator(BaseOperator):
    """Base of the steps: idempotent, with a lease of their own.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#e5e0f0"
    purpose = "disaster recovery drill"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": 1, "retry_delay": timedelta(seconds=10), **kwargs})
        self.environment = environment

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold. Raises AirflowFailException when another drill works."""
        run = ChangeRun.from_context(context, self.environment, lease_suffix=LEASE_SUFFIX)
        try:
            run.begin_attempt(self.purpose, TTL_SECONDS)
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return run


class PlanDrillOperator(DrillOperator):
    """Takes the drills' lease, and chooses hosts, color and release."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan."""
        from sebenza_ops.recovery.disaster_drill import plan_drill
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
        from sebenza_ops.recovery.disaster_record import start_record

        refuse_unknown_conf(context)
        run = self.begin(context)
        start_record(run, self.purpose)
        try:
            return plan_drill(run, str(context["params"].get("release_id") or "")).model_dump(mode="json")
        except DisasterRefusedError as error:
            raise AirflowFailException(str(error)) from error


class DrillStepOperator(DrillOperator):
    """Base of the steps that carry out the plan.

    Args:
        plan: The plan, as PlanDrillOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def drill_plan(self) -> DrillPlan:
        """The plan as a value."""
        from sebenza_ops.recovery.disaster_drill import DrillPlan

        return DrillPlan.model_validate(self.plan)


class RestoreCopyOperator(DrillStepOperator):
    """Restores the backups of the secondary site with the escrowed keys."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns what was measured."""
        from sebenza_ops.recovery.disaster_drill import restore_copy
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
        from sebenza_ops.systems.age import SealError

        run, plan = self.begin(context), self.drill_plan()
        with run.kept_lease(TTL_SECONDS):
            try:
                return restore_copy(run, plan)
            except (DisasterRefusedError, SealError) as error:
                raise AirflowFailException(str(error)) from error


class ServeCopyOperator(DrillStepOperator):
    """Runs the application on the copy."""

    def execute(self, context: Context) -> float:
        """Returns when it was healthy."""
        from sebenza_ops.recovery.disaster_drill import serve_copy
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError

        run, plan = self.begin(context), self.drill_plan()
        with run.kept_lease(TTL_SECONDS):
            try:
                return serve_copy(run, plan)
            except DisasterRefusedError as error:
                raise AirflowFailException(str(error)) from error


class JudgeDrillOperator(DrillStepOperator):
    """Compares what was measured with the objectives; a miss is recorded, and fails the drill."""

    ui_color = "#d9ead3"

    def execute(self, context: Context) -> str:
        """Returns it in words."""
        from sebenza_ops.recovery.disaster_drill import DrillMissedError, judge_drill
        from sebenza_ops.systems.drill_instance import RestoredCopy

        run, plan, task = self.begin(context), self.drill_plan(), context["ti"]
        copy = RestoredCopy(**task.xcom_pull(task_ids=RESTORE_TASK_ID))
        try:
            return judge_drill(run, plan, copy, float(task.xcom_pull(task_ids=SERVE_TASK_ID)))
        except DrillMissedError as error:
            raise AirflowFailException(f"an objective was missed: {error}") from error


class CleanUpDrillOperator(DrillOperator):
    """Teardown: removes the copy, records the outcome and whatever has failed as a finding, stores the evidence."""

    def execute(self, context: Context) -> str:
        """Returns the summary; fails when any task has failed."""
        from sebenza_ops.recovery.disaster_drill import DrillPlan, clean_up
        from sebenza_ops.recovery.drill_finish import finish_drill

        run, task = self.begin(context), context["ti"]
        found = task.get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        states = {name: str(state) for name, state in found.get(context["run_id"], {}).items() if name != self.task_id}
        failed = [name for name, state in states.items() if state == "failed"]
        planned = task.xcom_pull(task_ids=PLAN_TASK_ID)
        with run.kept_lease(TTL_SECONDS):
            if planned:
                clean_up(run, DrillPlan.model_validate(planned))
            summary = finish_drill(run, failed)
        run.release("the drill has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary


class SealEscrowOperator(DrillOperator):
    """Seals the credentials that a recovery needs, and puts them at the secondary site."""

    purpose = "escrow of credentials"

    def execute(self, context: Context) -> str:
        """Returns a summary."""
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
        from sebenza_ops.recovery.escrow import seal

        refuse_unknown_conf(context)
        run = self.begin(context)
        try:
            return seal(run)
        except DisasterRefusedError as error:
            raise AirflowFailException(str(error)) from error
        finally:
            run.release("the escrow is done")
