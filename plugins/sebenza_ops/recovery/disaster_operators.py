"""The steps of a disaster recovery as operators. Each is thin: it finds its run, and calls a step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.conclusion import PlanOperator
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.recovery.disaster_plan import DisasterPlan

# A killed task is started again at once: users are waiting.
RETRIES = 2
# Beyond the answer's own time: the scheduler needs a moment to start the next task.
RESERVATION_GRACE_SECONDS = 300.0
DEFAULT_TTL_SECONDS = 120.0
PLAN_TASK_ID = "assess"
RECOMMENDED = "recommended"


class DisasterOperator(BaseOperator):
    """Base of the steps: idempotent, so retried without delay; they go on while the ledger is down.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#f1d9d6"
    purpose = "disaster recovery"
    emergency = True
    """Whether it takes the environment from whoever holds it, and goes on with the ledger down."""

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": RETRIES, "retry_delay": timedelta(0), **kwargs})
        self.environment = environment

    def ttl_seconds(self, run: ChangeRun) -> float:
        """The lease's life without renewal, by the environment's policy."""
        policy = run.environment.policies.disaster_recovery
        return float(policy.lease_ttl_seconds) if policy is not None else DEFAULT_TTL_SECONDS

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold, with a fencing token of its own, known to every host that answers.

        After a question the lease is taken anew.
        """
        from sebenza_ops.ledger import LeaseKind
        from sebenza_ops.recovery.disaster_record import start_record
        from sebenza_ops.recovery.disaster_steps import hold_attempt, raise_tokens

        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        current = run.ledger.leases.current(self.environment)
        try:
            # Housekeeping that has begun while people decided is not waited for. Another change is later than this run.
            if self.emergency and current is not None and current.kind is LeaseKind.HOUSEKEEPING:
                run.take_over(self.purpose, str(context["params"]["reason"]), self.ttl_seconds(run), 0)
            hold_attempt(run, self.purpose, self.ttl_seconds(run))
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        if run.is_journaled:
            start_record(run, self.purpose, context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))
            raise_tokens(run)
        return run


class AssessOperator(DisasterOperator, PlanOperator):
    """Takes the lease, looks at both sites from everywhere, and plans; changes nothing.

    Skips all later steps with `plan_only`.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the plan, and as `text` what the question shows."""
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
        from sebenza_ops.recovery.disaster_record import start_record
        from sebenza_ops.recovery.disaster_steps import excluded_people
        from sebenza_ops.recovery.sites import remembered_silence
        from sebenza_ops.systems.ssh import kept_sessions

        refuse_unknown_conf(context)
        params = context["params"]
        reason, plan_only = str(params["reason"]), bool(params.get("plan_only"))
        if len(reason.strip()) < 10:
            raise AirflowFailException("refused, nothing was touched: reason: at least 10 characters say why")
        try:
            run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
            start_record(run, self.purpose)
            with kept_sessions(), remembered_silence():
                if not plan_only:
                    self.take_lease(run, reason, take_over=bool(params.get("take_over")))
                plan = self.find_plan(run, params)
        except (ChangeRefusedError, DisasterRefusedError) as error:
            raise AirflowFailException(str(error)) from error
        excluded = excluded_people(run)
        text = self.text(plan, reason, run.holder.actor, excluded)
        self.log.info("%s", text)
        data = {**plan.model_dump(mode="json"), "text": text}
        # A skip ends the task at once: what it returns would be lost.
        context["ti"].xcom_push(key="return_value", value=data)
        # Under a key of its own: the question takes it apart.
        context["ti"].xcom_push(key="excluded", value=excluded)
        if plan_only:
            self.end_with_plan(context, run, data, text)
        return data

    def take_lease(self, run: ChangeRun, reason: str, *, take_over: bool) -> None:
        """Take the environment from whoever holds it; from another disaster recovery only to `take_over`."""
        from sebenza_ops.recovery.disaster_steps import take_lease

        take_lease(run, self.purpose, reason, self.ttl_seconds(run), take_over=take_over)

    def find_plan(self, run: ChangeRun, params: Any) -> DisasterPlan:
        """What is to be done."""
        from sebenza_ops.recovery.disaster_rules import DisasterType
        from sebenza_ops.recovery.disaster_steps import plan_recovery

        kind = None if params["type"] == RECOMMENDED else DisasterType(str(params["type"]))
        return plan_recovery(
            run, kind, str(params.get("release_id") or ""), _moment(str(params.get("last_good_at") or ""))
        )

    def text(self, plan: DisasterPlan, reason: str, requested_by: str, excluded: dict[str, str]) -> str:
        """What the question shows."""
        return plan.text(reason, requested_by, excluded)


def _moment(text: str) -> float | None:
    """A moment of the conf in seconds since the epoch. Raises AirflowFailException for one without a zone."""
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise AirflowFailException(f"refused, nothing was touched: last_good_at {text!r} is no moment") from error
    if found.tzinfo is None:
        raise AirflowFailException(f"refused, nothing was touched: last_good_at {text!r} has no zone; write +00:00")
    return found.timestamp()


class ApproveRecoveryOperator(HumanDecisionOperator):
    """Asks whether the environment may be recovered so, with the environment reserved for as long as people have.

    Args:
        excluded: People who may not approve, each with what they are; a template that gives a dictionary.
    """

    template_fields = (*HumanDecisionOperator.template_fields, "excluded")

    def __init__(self, *, excluded: Any, **kwargs: Any) -> None:
        super().__init__(**{"emergency": True, **kwargs})
        self.excluded = excluded

    def execute(self, context: Context) -> Any:
        """Hand the lease back for the time of the question, and ask."""
        from sebenza_ops.ledger import LeaseHeld, ReservationHeld, RunSuperseded

        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        leases = run.ledger.leases
        current = leases.current(self.environment)
        wait_seconds = self._response_seconds() + RESERVATION_GRACE_SECONDS
        try:
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "people decide now")
            leases.reserve(self.environment, run.holder, "waiting for a decision on the site", wait_seconds)
        except (LeaseHeld, ReservationHeld, RunSuperseded) as error:
            raise AirflowFailException(f"{error} {self.UNTOUCHED}") from error
        return super().execute(context)

    def refusal(self, context: Context, name: str) -> str | None:
        """The requester may not approve, where the policy says so."""
        from sebenza_ops.decisions import refusal_of

        return refusal_of(name, dict(self.excluded or {}))


class RecoveryStepOperator(DisasterOperator):
    """Base of the steps that carry out the plan.

    Args:
        plan: The plan, as AssessOperator returns it.
        approved_by: Who has approved; a template.
    """

    template_fields: Sequence[str] = ("plan", "approved_by")

    def __init__(self, *, plan: Any, approved_by: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan, self.approved_by = plan, approved_by

    def recovery_plan(self) -> DisasterPlan:
        """The plan as a value."""
        from sebenza_ops.recovery.disaster_plan import DisasterPlan

        return DisasterPlan.model_validate({key: value for key, value in dict(self.plan).items() if key != "text"})

    @abstractmethod
    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """What is done; found inside the task, so that the DAG's file stays quick to read."""

    def execute(self, context: Context) -> str:
        """Returns a summary. A killed attempt is gone on with, whatever it had done."""
        from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
        from sebenza_ops.systems.errors import FencedOffError

        run, plan = self.begin(context), self.recovery_plan()
        with run.kept_lease(self.ttl_seconds(run)):
            try:
                return self.step()(run, plan)
            except (DisasterRefusedError, FencedOffError) as error:
                run.note(str(error), "error")
                raise AirflowFailException(str(error)) from error


class FenceSiteOperator(RecoveryStepOperator):
    """Keeps the lost site's servers from taking writes, as far as they can be reached."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Fence."""
        from sebenza_ops.recovery.disaster_fence import fence_site

        return lambda run, plan: fence_site(run, plan, str(self.approved_by))


class ActivateDatabaseOperator(RecoveryStepOperator):
    """Makes the other site's database the primary: the standby, or one that is restored there."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Promote the standby, or restore."""
        from sebenza_ops.recovery.disaster_database import promote_standby
        from sebenza_ops.recovery.disaster_restore import restore_site

        return lambda run, plan: (promote_standby if plan.restore is None else restore_site)(run, plan)


class ActivateApplicationOperator(RecoveryStepOperator):
    """Has the right release answer at the other site."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Start its services and the release."""
        from sebenza_ops.recovery.disaster_application import serve_release

        return lambda run, plan: serve_release(run, plan, plan.release_id)


class LeadUsersOperator(RecoveryStepOperator):
    """Leads users to the other site by DNS."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Change the records, and wait until everybody answers them."""
        from sebenza_ops.recovery.disaster_dns import lead_users

        return lambda run, plan: lead_users(run, plan.from_site, plan.to_site)


class VerifyRecoveryOperator(RecoveryStepOperator):
    """Proves by several sources that the other site serves."""

    ui_color = "#d9ead3"

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Prove it."""
        from sebenza_ops.recovery.disaster_dns import restore_ttl
        from sebenza_ops.recovery.disaster_verify import verify_recovery

        def prove(run: ChangeRun, plan: DisasterPlan) -> str:
            proven = verify_recovery(run, plan)
            restore_ttl(run, plan.to_site)
            run.tell_warning(f"{plan.environment} is served from {plan.to_site} now ({plan.kind}): {proven}")
            return proven

        return prove


class LaterStepOperator(RecoveryStepOperator):
    """Base of what a partial recovery does while users are served; skipped by the others."""

    def execute(self, context: Context) -> str:
        """Returns a summary."""
        from sebenza_ops.recovery.disaster_rules import DisasterType

        if self.recovery_plan().kind is not DisasterType.PARTIAL:
            raise AirflowSkipException("nothing is left for later: this recovery is not partial")
        return super().execute(context)


class RestoreRestOperator(LaterStepOperator):
    """Brings what is not critical into the database that serves."""

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Restore the rest, and start the services that could wait."""
        from sebenza_ops.recovery.disaster_application import start_services
        from sebenza_ops.recovery.disaster_restore import restore_rest

        def restore(run: ChangeRun, plan: DisasterPlan) -> str:
            restored = restore_rest(run, plan)
            start_services(run, run.environment.at_site(plan.to_site))
            return restored

        return restore


class VerifyWholeOperator(LaterStepOperator):
    """Proves once more, with every page, that the other site serves."""

    ui_color = "#d9ead3"

    def step(self) -> Callable[[ChangeRun, DisasterPlan], str]:
        """Prove it."""
        from sebenza_ops.recovery.disaster_verify import verify_whole

        def prove(run: ChangeRun, plan: DisasterPlan) -> str:
            proven = verify_whole(run, plan)
            run.tell_warning(f"{plan.environment} is whole again at {plan.to_site}: {proven}")
            return proven

        return prove


class FinishRecoveryOperator(DisasterOperator):
    """Teardown: measures, records the outcome, stores the evidence, gives lease and reservation back."""

    def execute(self, context: Context) -> str:
        """Returns the run's summary; fails, so that the run fails, when any task has failed."""
        from sebenza_ops.recovery.disaster_finish import finish_recovery
        from sebenza_ops.recovery.disaster_record import start_record

        run = ChangeRun.from_context(context, self.environment, emergency=self.emergency)
        found = context["ti"].get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])
        states = {name: str(state) for name, state in found.get(context["run_id"], {}).items() if name != self.task_id}
        failed = [name for name, state in states.items() if state == "failed"] or [
            name for name, state in states.items() if state == "upstream_failed"
        ]
        if run.is_journaled:
            start_record(run, self.purpose, context["ti"].xcom_pull(task_ids=PLAN_TASK_ID))
        try:
            amiss = self.settle(context, run) if failed else ""
            summary = finish_recovery(
                run,
                failed,
                plan_only=bool(context["params"].get("plan_only")),
                is_disaster=self.emergency,
                amiss=amiss,
            )
        finally:
            leases = run.ledger.leases
            current = leases.current(self.environment)
            if current is not None and current.holder.is_run(run.holder):
                leases.release(self.environment, current.token, "the run has ended")
            leases.release_reservation(self.environment, run.holder, "the run has ended")
        if failed:
            raise AirflowFailException(summary)
        return summary

    def settle(self, context: Context, run: ChangeRun) -> str:
        """Of a run that has failed, take back what can be. Returns what is amiss then; empty when nothing is."""
        return ""
