"""A database rollback as operators: after traffic is back, and only where a run asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRun
from sebenza_ops.decisions import DecisionRejectedError, HumanDecisionOperator
from sebenza_ops.deployment.contract_operators import RESERVATION_GRACE_SECONDS, BackupBeforeChangeOperator
from sebenza_ops.deployment.operators import PlannedOperator
from sebenza_ops.deployment.rollback_operators import RollbackOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.deployment.database_rollback import DatabaseRollbackPlan


class PlanDatabaseRollbackOperator(RollbackOperator, PlannedOperator):
    """Finds the newest verified backup from before the change, and asks the schema gate.

    Args:
        plan: The rollback's plan, as PlanRollbackOperator returns it.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the database's plan. A refusal is not tried again; storage that does not answer is."""
        from sebenza_ops.deployment.database_rollback import DatabaseRollbackRefusedError
        from sebenza_ops.deployment.database_rollback_steps import plan_database_rollback, refused
        from sebenza_ops.systems.errors import OutsideSystemError

        run = self.begin(context)
        rollback = self.parsed_plan()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return plan_database_rollback(run, rollback).model_dump(mode="json")
            except (DatabaseRollbackRefusedError, OutsideSystemError) as error:
                text = refused(run, rollback.release.release_id, error)
                if isinstance(error, OutsideSystemError):
                    raise
                raise AirflowFailException(text) from error


class DatabaseStepOperator(RollbackOperator):
    """Base of the steps that carry out a database rollback's plan.

    Args:
        plan: The plan, as PlanDatabaseRollbackOperator returns it.
    """

    template_fields: Sequence[str] = ("plan",)

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def database_plan(self) -> DatabaseRollbackPlan:
        """The plan as a value."""
        from sebenza_ops.deployment.database_rollback import DatabaseRollbackPlan

        return DatabaseRollbackPlan.model_validate(self.plan)


class RestoreBesideOperator(DatabaseStepOperator):
    """Restores the backup into a new database beside, asks the schema gate about it, counts what would be lost."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the copy, and as `text` what the question shows. A killed attempt's restore is found again."""
        from sebenza_ops.deployment.database_rollback import DatabaseRollbackRefusedError
        from sebenza_ops.deployment.database_rollback_steps import refused, restore_beside

        run = self.begin(context)
        plan = self.database_plan()
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                copy = restore_beside(run, plan)
            except DatabaseRollbackRefusedError as error:
                raise AirflowFailException(refused(run, plan.release.release_id, error)) from error
        # Under a key of its own: the question takes it apart.
        context["ti"].xcom_push(key="excluded", value=copy.excluded)
        return copy.model_dump(mode="json")


class ApproveDatabaseRollbackOperator(HumanDecisionOperator):
    """Asks whether what was written since may go, with the environment reserved for as long as people have.

    Always asked, whatever the environment's policy; the policy says who may not approve.

    Args:
        excluded: People who may not approve, each with what they are; a template that gives a dictionary.
    """

    template_fields = (*HumanDecisionOperator.template_fields, "excluded")
    UNTOUCHED = "The database was not changed; traffic stays where it is."

    def __init__(self, *, excluded: Any, **kwargs: Any) -> None:
        super().__init__(**{"emergency": True, **kwargs})
        self.excluded = excluded

    def execute(self, context: Context) -> Any:
        """Hand the lease back for the time of the question, and ask."""
        from sebenza_ops.ledger import LeaseHeld, ReservationHeld, RunSuperseded

        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        leases = run.ledger.leases
        current = leases.current(self.environment)
        assert self.response_timeout is not None
        wait_seconds = self.response_timeout.total_seconds() + RESERVATION_GRACE_SECONDS
        with self._kept_in_mind(run):
            try:
                if current is not None and current.holder.is_run(run.holder):
                    leases.release(self.environment, current.token, "people decide about the database now")
                # A freeze does not count: it stops no rollback.
                leases.reserve(self.environment, run.holder, "waiting for a decision on the database", wait_seconds)
            except (LeaseHeld, ReservationHeld, RunSuperseded) as error:
                raise AirflowFailException(f"{error} {self.UNTOUCHED}") from error
            return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Take the answer."""
        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        with self._kept_in_mind(run):
            return super().execute_complete(context, event)

    def on_approval(self, context: Context, approval: dict[str, str]) -> None:
        """Note who has approved."""
        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        run.note(f"{approval['approved_by']} has approved that the database goes back", "warning")

    def refusal(self, context: Context, name: str) -> str | None:
        """The requester may not approve, where the policy says so."""
        from sebenza_ops.decisions import refusal_of

        return refusal_of(name, dict(self.excluded or {}))

    @contextmanager
    def _kept_in_mind(self, run: ChangeRun) -> Iterator[None]:
        """Why the database stays, for the run's summary."""
        from sebenza_ops.deployment.database_rollback_steps import save_progress

        try:
            yield
        except AirflowFailException as error:
            is_rejected = isinstance(error.__cause__, DecisionRejectedError)
            save_progress(
                run, state="rejected" if is_rejected else "not approved", reason=str(error.__cause__ or error)
            )
            run.note(str(error), "warning")
            raise


class BackupBeforeDatabaseRollbackOperator(RollbackOperator, BackupBeforeChangeOperator):
    """A verified backup of the database as it is, right before it is moved aside."""


class SwapDatabaseOperator(DatabaseStepOperator):
    """Moves the database aside, gives its name to the restored copy, and proves that the application works with it.

    Args:
        copy: The copy, as RestoreBesideOperator returns it.
        approved_by: Who has approved; a template.
    """

    template_fields = (*DatabaseStepOperator.template_fields, "copy", "approved_by")
    ui_color = "#f4cccc"

    def __init__(self, *, copy: Any, approved_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.copy = copy
        self.approved_by = approved_by

    def execute(self, context: Context) -> str:
        """Returns a summary. A killed attempt is gone on with, whatever it had done."""
        from sebenza_ops.deployment.database_exchange import DatabaseExchangeError, exchange_database
        from sebenza_ops.deployment.database_rollback_steps import RestoredCopy
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return exchange_database(
                    run, self.database_plan(), RestoredCopy.model_validate(self.copy), str(self.approved_by)
                )
            except (DatabaseExchangeError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error
