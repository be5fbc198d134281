"""The backup before a change, and the steps of migrate_contract, as operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.deployment.operators import DeploymentOperator, failed_tasks
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

# Beyond the answer's own time: the scheduler needs a moment to start the next task.
RESERVATION_GRACE_SECONDS = 300.0


class BackupBeforeChangeOperator(DeploymentOperator):
    """Makes sure that the run has a verified backup, before its first change that can't be undone otherwise."""

    ui_color = "#d9ead3"

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the backup: key, size_bytes, sha256, seconds, schema_revision. A retry finds the finished one."""
        from sebenza_ops.deployment.backup_before import backup_before_change

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            return backup_before_change(run).model_dump(mode="json")


class ContractOperator(DeploymentOperator):
    """Base of the steps of migrate_contract."""

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return "contract migrations"

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold. After the wait for an answer the lease is taken anew, which a freeze may refuse."""
        run = ChangeRun.from_context(context, self.environment)
        current = run.ledger.leases.current(self.environment)
        if current is None or not current.holder.is_run(run.holder):
            try:
                run.acquire(self.purpose(context), self.lease_ttl_seconds(run), 0, respect_freeze=True)
            except ChangeRefusedError as error:
                raise AirflowFailException(str(error)) from error
        return super().begin(context)


class PlanContractOperator(ContractOperator, PlanOperator):
    """Takes the lease, and finds out which contract migrations are due and who needs what they take away.

    With the parameter `plan_only`, or when nothing is due, all later steps are skipped. Where people decide, the lease
    becomes a reservation for the time of the question.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan, and as `text` what the question shows."""
        from sebenza_ops.deployment.contract import (
            ContractRefusedError,
            NothingToContractError,
            plan_contract,
            take_contract_lease,
        )

        refuse_unknown_conf(context)
        plan_only = bool(context["params"].get("plan_only"))
        try:
            run = ChangeRun.from_context(context, self.environment)
            take_contract_lease(run, self.purpose(context), self.lease_ttl_seconds(run), plan_only=plan_only)
            with run.kept_lease(self.lease_ttl_seconds(run)):
                plan = plan_contract(run)
        except NothingToContractError as error:
            run.note(str(error), "success")
            self.skip_changes(context)
            return {}
        except (ChangeRefusedError, ContractRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        self.log.info("%s", plan.text())
        data = {**plan.model_dump(mode="json"), "text": plan.text()}
        if plan_only:
            self.end_with_plan(context, run, data, plan.text())
        elif run.environment.policies.approvals is not None:
            self._reserve(run, context)
        return data

    def _reserve(self, run: ChangeRun, context: Context) -> None:
        from sebenza_ops.ledger import LeaseHeld, ReservationHeld

        policy = run.environment.policies.approvals
        wait_seconds = (policy.timeout_seconds if policy is not None else 0) + RESERVATION_GRACE_SECONDS
        run.release("people decide now")
        try:
            run.ledger.leases.reserve(self.environment, run.holder, self.purpose(context), wait_seconds)
        except (LeaseHeld, ReservationHeld) as error:
            raise AirflowFailException(str(error)) from error


class BackupBeforeContractOperator(ContractOperator, BackupBeforeChangeOperator):
    """The verified backup before contract migrations."""


class ApplyContractOperator(ContractOperator):
    """Looks again, applies the contract migrations that were planned, and records them in the audit.

    Args:
        plan: The plan, as PlanContractOperator returns it.
    """

    template_fields = ("plan",)
    ui_color = "#f4cccc"

    def __init__(self, *, plan: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def execute(self, context: Context) -> int:
        """Returns the schema revision. Not tried again when the plan does not hold, or a person must look."""
        from sebenza_ops.deployment.contract import ContractPlan, ContractRefusedError, apply_contract
        from sebenza_ops.deployment.migrations import SchemaChangeError
        from sebenza_ops.systems.errors import FencedOffError

        run = self.begin(context)
        with run.kept_lease(self.lease_ttl_seconds(run)):
            try:
                return apply_contract(run, ContractPlan.model_validate(self.plan))
            except (ContractRefusedError, SchemaChangeError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FinishContractOperator(DeploymentOperator):
    """Teardown: records the outcome, stores the evidence, gives lease and reservation back. Changes no host.

    Args:
        applying_task_id: The task that changes the schema.
    """

    def __init__(self, *, applying_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.applying_task_id = applying_task_id

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.deployment.contract_finish import finish_contract

        # Nothing is changed here, and the lease may be another run's by now: none is taken.
        run = ChangeRun.from_context(context, self.environment)
        states = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        own_states = states.get(context["run_id"], {})
        failed = failed_tasks(own_states, self.task_id)
        try:
            summary = finish_contract(
                run,
                failed,
                plan_only=bool(context["params"].get("plan_only")),
                has_begun=str(own_states.get(self.applying_task_id)) == "failed",
            )
        finally:
            leases, name = run.ledger.leases, self.environment
            current = leases.current(name)
            if current is not None and current.holder.is_run(run.holder):
                leases.release(name, current.token, "the run has ended")
            leases.release_reservation(name, run.holder, "the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary
