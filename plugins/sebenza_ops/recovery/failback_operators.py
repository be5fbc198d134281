"""The steps of a failback as operators: those of a disaster recovery, and what is the failback's alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.recovery.disaster_operators import (
    AssessOperator,
    DisasterOperator,
    FinishRecoveryOperator,
    RecoveryStepOperator,
    VerifyRecoveryOperator,
)

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.disaster_plan import DisasterPlan


class _PlannedMixin(DisasterOperator):
    """A failback waits for its turn, and for the ledger."""

    purpose = "failback to the primary site"
    emergency = False


class PlanFailbackOperator(_PlannedMixin, AssessOperator):
    """Takes the lease when it is free, and finds out whether the primary site can take over again."""

    def take_lease(self, run: ChangeRun, reason: str, *, take_over: bool) -> None:
        """Take the environment when nobody holds it; every host of both sites hears of it."""
        from sebenza_ops.recovery.disaster_steps import raise_tokens, seen_token

        if run.is_journaled:
            raise ChangeRefusedError("the ledger is down: a failback waits for it. Nothing was changed.")
        lease = run.acquire(self.purpose, self.ttl_seconds(run), seen_token(run), respect_freeze=True)
        run.note(f"{self.purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
        raise_tokens(run)

    def find_plan(self, run: ChangeRun, params: Any) -> DisasterPlan:
        """Who takes over from whom."""
        from sebenza_ops.recovery.failback import plan_failback

        return plan_failback(run, str(params.get("release_id") or ""))

    def text(self, plan: DisasterPlan, reason: str, requested_by: str, excluded: dict[str, str]) -> str:
        """What the question shows."""
        from sebenza_ops.recovery.failback import failback_text

        return failback_text(plan, reason, requested_by)


class ResynchronizeOperator(_PlannedMixin, RecoveryStepOperator):
    """Has the primary site's server follow the serving one."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Rewind it, or copy it anew."""
        from sebenza_ops.recovery.failback import resynchronize

        return lambda run, plan: resynchronize(run, plan, str(self.approved_by))


class MoveBackOperator(_PlannedMixin, RecoveryStepOperator):
    """Moves the primary, starts the application there and leads users there, in one task: writes wait for it."""

    ui_color = "#c9e4d0"

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Move all of it."""
        from sebenza_ops.recovery.disaster_application import serve_release
        from sebenza_ops.recovery.disaster_dns import lead_users
        from sebenza_ops.recovery.failback import move_back

        def move(run: ChangeRun, plan: DisasterPlan) -> str:
            moved = move_back(run, plan)
            serve_release(run, plan, plan.release_id)
            return f"{moved}; {lead_users(run, plan.from_site, plan.to_site)}"

        return move


class VerifyFailbackOperator(_PlannedMixin, VerifyRecoveryOperator):
    """Proves by several sources that the primary site serves."""


class RestoreReplicationOperator(_PlannedMixin, RecoveryStepOperator):
    """Has everybody else follow the primary again."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Rejoin them."""
        from sebenza_ops.recovery.failback import restore_replication

        return lambda run, plan: restore_replication(run, plan, str(self.approved_by))


class FinishFailbackOperator(_PlannedMixin, FinishRecoveryOperator):
    """Teardown of a failback: one that was given up before its promotion leaves the other site serving."""

    def settle(self, context: Context, run: ChangeRun) -> str:
        """Take back a move without an end."""
        from sebenza_ops.recovery.disaster_record import planned_before, progress_of
        from sebenza_ops.recovery.failback import settle

        plan = planned_before(run)
        if plan is None or not progress_of(run).get("moving"):
            return ""
        try:
            held = self.begin(context)
        except AirflowFailException as error:
            return f"nothing was taken back, another run holds the environment: {error}"
        with held.kept_lease(self.ttl_seconds(held)):
            return settle(held, plan)
