"""The steps of a switch of the database's primary as operators. Each is thin: it finds its run, and calls a step."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.switch_plan import Kind, SwitchPlan

# A killed task is started again at once: clients may be waiting.
RETRIES = 2
# Beyond the answer's own time: the scheduler needs a moment to start the next task.
RESERVATION_GRACE_SECONDS = 300.0
DEFAULT_TTL_SECONDS = 120.0
PLAN_TASK_ID = "plan_switch"
PLANNED, UNPLANNED, REJOIN = "planned", "unplanned", "rejoin"


class SwitchOperator(BaseOperator):
    """Base of the steps: idempotent, so retried without delay; they go on while the ledger is down.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#dbe7f3"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": RETRIES, "retry_delay": timedelta(0), **kwargs})
        self.environment = environment

    def kind(self, context: Context) -> Kind:
        """What the run is to do."""
        from sebenza_ops.recovery.switch_plan import Kind

        return Kind(str(context["params"]["kind"]))

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"{self.kind(context).value} switch of the database's primary"

    def ttl_seconds(self, run: ChangeRun) -> float:
        """The lease's life without renewal, by the environment's policy."""
        policy = run.environment.policies.database_switch
        return float(policy.lease_ttl_seconds) if policy is not None else DEFAULT_TTL_SECONDS

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold, with a fencing token of its own. After a question the lease is taken anew."""
        from sebenza_ops.ledger import LeaseKind
        from sebenza_ops.recovery.switch_steps import start_record

        run = ChangeRun.from_context(context, self.environment, emergency=True)
        run.is_emergency = self.kind(context).value != PLANNED
        current = run.ledger.leases.current(self.environment)
        try:
            # Housekeeping that has begun while people decided is not waited for. Another change is later than this run.
            if run.is_emergency and current is not None and current.kind is LeaseKind.HOUSEKEEPING:
                run.take_over(self.purpose(context), str(context["params"]["reason"]), self.ttl_seconds(run), 0)
            run.begin_attempt(self.purpose(context), self.ttl_seconds(run))
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        if run.is_journaled:
            start_record(run, self.kind(context), context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))
        return run


class PlanSwitchOperator(SwitchOperator, PlanOperator):
    """Takes the lease, finds out who is what, and what would be lost; changes nothing.

    Skips what this kind of run does not need, and all later steps with `plan_only` and when there is nothing to do.

    Args:
        needed: The tasks beside the plan that each kind of run needs.
    """

    def __init__(self, *, needed: dict[str, tuple[str, ...]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.needed = needed

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan, and as `text` what the question shows."""
        from sebenza_ops.recovery.switch_plan import NothingToSwitchError, SwitchRefusedError
        from sebenza_ops.recovery.switch_steps import excluded_people, plan_switch, start_record, take_lease

        refuse_unknown_conf(context)
        params, kind = context["params"], self.kind(context)
        reason, plan_only = str(params["reason"]), bool(params.get("plan_only"))
        if kind.value != PLANNED and len(reason.strip()) < 10:
            raise AirflowFailException("refused, nothing was touched: reason: at least 10 characters say why")
        try:
            run = ChangeRun.from_context(context, self.environment, emergency=True)
            start_record(run, kind)
            if not plan_only:
                take_lease(run, kind, self.purpose(context), reason, self.ttl_seconds(run))
            plan = plan_switch(run, kind)
        except NothingToSwitchError as error:
            run.note(str(error), "success")
            self.skip_changes(context)
            return {}
        except (ChangeRefusedError, SwitchRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        excluded = excluded_people(run)
        text = plan.text(reason, run.holder.actor, excluded)
        self.log.info("%s", text)
        data = {**plan.model_dump(mode="json"), "text": text}
        # A skip ends the task at once: what it returns would be lost.
        context["ti"].xcom_push(key="return_value", value=data)
        # Under a key of its own: the question takes it apart.
        context["ti"].xcom_push(key="excluded", value=excluded)
        if plan_only:
            self.end_with_plan(context, run, data, text)
        else:
            self._skip_but(context, self.needed[kind.value])
        return data

    def _skip_but(self, context: Context, needed: Sequence[str]) -> None:
        later = self.get_flat_relatives(upstream=False)
        unneeded = [task for task in later if not task.is_teardown and task.task_id not in needed]
        if unneeded:
            self.skip(ti=context["ti"], tasks=unneeded)


class ApproveSwitchOperator(HumanDecisionOperator):
    """Asks whether the primary may be switched, with the environment reserved for as long as people have.

    Args:
        excluded: People who may not approve, each with what they are; a template that gives a dictionary.
        switch_kind: The kind of switch, in a word; a template.
    """

    template_fields = (*HumanDecisionOperator.template_fields, "excluded", "switch_kind")

    def __init__(self, *, excluded: Any, switch_kind: str, **kwargs: Any) -> None:
        super().__init__(**{"emergency": True, **kwargs})
        self.excluded, self.switch_kind = excluded, switch_kind

    def execute(self, context: Context) -> Any:
        """Hand the lease back for the time of the question, and ask."""
        from sebenza_ops.ledger import LeaseHeld, ReservationHeld, RunSuperseded

        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        leases = run.ledger.leases
        current = leases.current(self.environment)
        wait_seconds = self._response_seconds() + RESERVATION_GRACE_SECONDS
        try:
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "people decide about the database's primary now")
            leases.reserve(self.environment, run.holder, "waiting for a decision on the primary", wait_seconds)
        except (LeaseHeld, ReservationHeld, RunSuperseded) as error:
            raise AirflowFailException(f"{error} {self.UNTOUCHED}") from error
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Take the answer."""
        answer = super().execute_complete(context, event)
        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        why = f": {answer['reason']}" if answer["reason"] else ""
        run.note(f"{answer['approved_by']} has approved the {self.switch_kind} switch{why}", "warning")
        return answer

    def refusal(self, context: Context, name: str) -> str | None:
        """The requester may not approve, where the policy says so."""
        from sebenza_ops.decisions import refusal_of

        return refusal_of(name, dict(self.excluded or {}))


class PlannedSwitchOperator(SwitchOperator):
    """Base of the steps that carry out the plan.

    Args:
        plan: The plan, as PlanSwitchOperator returns it.
        approved_by: Who has approved; a template, empty when nobody was asked.
    """

    template_fields: Sequence[str] = ("plan", "approved_by")

    def __init__(self, *, plan: Any, approved_by: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan, self.approved_by = plan, approved_by

    def switch_plan(self) -> SwitchPlan:
        """The plan as a value."""
        from sebenza_ops.recovery.switch_plan import SwitchPlan

        return SwitchPlan.model_validate({key: value for key, value in dict(self.plan).items() if key != "text"})


class SwitchPrimaryOperator(PlannedSwitchOperator):
    """Moves the primary and leads clients to it, in one task: clients wait for seconds, not for a scheduler."""

    ui_color = "#c9e4d0"

    def execute(self, context: Context) -> str:
        """Returns a summary. A killed attempt is gone on with, whatever it had done."""
        from sebenza_ops.recovery.switch_over import SwitchFailedError, fail_over, switch_over
        from sebenza_ops.recovery.switch_plan import Kind, SwitchRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run, plan = self.begin(context), self.switch_plan()
        with run.kept_lease(self.ttl_seconds(run)):
            try:
                if plan.kind is Kind.PLANNED:
                    return switch_over(run, plan)
                return fail_over(run, plan, str(self.approved_by))
            except (SwitchRefusedError, SwitchFailedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class RejoinOperator(PlannedSwitchOperator):
    """Makes the old primary the new one's replica: by itself, rewound, or copied anew beside."""

    def execute(self, context: Context) -> str:
        """Returns how. A killed attempt's rebuild is found again."""
        from sebenza_ops.recovery.rejoin import RejoinFailedError, rejoin
        from sebenza_ops.recovery.switch_plan import SwitchRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run, plan = self.begin(context), self.switch_plan()
        with run.kept_lease(self.ttl_seconds(run)):
            try:
                return rejoin(run, plan, str(self.approved_by))
            except (RejoinFailedError, SwitchRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class VerifySwitchOperator(PlannedSwitchOperator):
    """Proves by two sources who is the primary, and that its replica follows."""

    ui_color = "#d9ead3"

    def execute(self, context: Context) -> str:
        """Returns what was proven."""
        from sebenza_ops.recovery.rejoin import NotProvenError, verify

        run, plan = self.begin(context), self.switch_plan()
        with run.kept_lease(self.ttl_seconds(run)):
            try:
                return verify(run, plan)
            except NotProvenError as error:
                run.note(str(error), "error")
                raise


class FinishSwitchOperator(SwitchOperator):
    """Teardown: lets clients go on, records the outcome, stores the evidence, gives lease and reservation back.

    Args:
        changing_task_ids: The tasks that change something; only when one of them was reached is anything settled.
    """

    def __init__(self, *, changing_task_ids: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.changing_task_ids = changing_task_ids

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.recovery.switch_finish import finish_switch
        from sebenza_ops.recovery.switch_steps import start_record

        found = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        states = {name: str(state) for name, state in found.get(context["run_id"], {}).items() if name != self.task_id}
        failed = [name for name, state in states.items() if state == "failed"] or [
            name for name, state in states.items() if state == "upstream_failed"
        ]
        reached = any(states.get(name) in {"success", "failed"} for name in self.changing_task_ids)
        # A run that has changed nothing takes no lease now: it may be another run's.
        run = self.begin(context) if reached else ChangeRun.from_context(context, self.environment, emergency=True)
        if run.is_journaled and not reached:
            start_record(run, self.kind(context), context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))
        try:
            summary = finish_switch(run, failed, plan_only=bool(context["params"].get("plan_only")), may_settle=reached)
        finally:
            leases = run.ledger.leases
            current = leases.current(self.environment)
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "the run has ended")
            leases.release_reservation(self.environment, run.holder, "the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary
