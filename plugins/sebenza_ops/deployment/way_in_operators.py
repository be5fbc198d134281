"""The way in of a deployment as operators: reservation, gates, the environment that goes first, approval, backup.

Until the approval a run holds a reservation, no lease: people think, housekeeping goes on, nothing is changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.change_operators import RETRIES
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.deployment.operators import WAY_IN, DeploymentOperator, PlannedOperator, gate_task_id
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.environments.models import DeploymentPolicy

# The reservation of a run that died: long enough for a build and all gates.
RESERVATION_SECONDS = 3600.0


class GateNotPassedError(Exception):
    """A gate's verdict is not a pass."""


def deployment_policy(run: ChangeRun) -> DeploymentPolicy:
    """The environment's policy; it may have been taken away since the DAG was made."""
    from sebenza_ops.environments.models import DeploymentPolicy as Policy

    return run.environment.policies.deployment or Policy()


class ReserveOperator(DeploymentOperator):
    """Reserves the environment, or refuses the run at once; checks the run's conf before anything is touched.

    Args:
        check: Checks the run's parameters; raises ValueError that names the field.
        strategy: How the deployment moves traffic, for the ledger.
    """

    def __init__(self, *, check: Callable[[Any], None], strategy: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.check = check
        self.strategy = strategy

    def execute(self, context: Context) -> None:
        """Raises a failure that is not tried again when the environment is held, reserved by another run, or frozen."""
        refuse_unknown_conf(context)
        params = context["params"]
        try:
            self.check(params)
            run = ChangeRun.from_context(context, self.environment)
            run.reserve(self.purpose(context), RESERVATION_SECONDS, plan_only=bool(params.get("plan_only")))
        except ValueError as error:
            raise AirflowFailException(f"refused, nothing was touched: {error}") from error
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        holder, version = run.holder, str(params.get("version", ""))
        run.ledger.deployments.start(
            self.environment, holder.dag_id, holder.run_id, holder.actor, version, None, self.strategy
        )
        run.ledger.deployments.set_progress(holder.dag_id, holder.run_id, WAY_IN, True)
        run.note(f"{self.purpose(context)}: {self.environment} is reserved by {holder.actor}, nothing is changed yet")


class GateOperator(PlannedOperator):
    """One gate: looks, records its verdict as evidence, and fails unless it passed.

    Args:
        gate: The gate's name.
    """

    ui_color = "#efe3c8"

    def __init__(self, *, gate: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = gate

    def execute(self, context: Context) -> str:
        """Returns the gate's detail."""
        from sebenza_ops.deployment.gate_checks import GateContext, check_gate
        from sebenza_ops.deployment.gates import shown
        from sebenza_ops.evidence.facts import GateFact, utc_now

        run = ChangeRun.from_context(context, self.environment)
        result = check_gate(self.gate, GateContext(run, self.parsed_plan(), deployment_policy(run)))
        fact = GateFact(name=self.gate, verdict=result.verdict, detail=result.detail, link=result.link, at=utc_now())
        run.record([fact])
        self.log.info("%s: %s, %s", self.gate, shown(result.verdict), result.detail)
        if result.verdict != "pass":
            error = GateNotPassedError(f"gate {self.gate}: {shown(result.verdict)}, {result.detail}")
            raise AirflowFailException(str(error)) from error
        return result.detail


class JudgeGatesOperator(PlannedOperator, SkipMixin):
    """All gates together: goes on when all passed, asks for a waiver where one may be given, and fails otherwise.

    Args:
        gates: The names of the policy's gates.
        waiver_task_id: The task that asks for a waiver; it is skipped when none is needed.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, gates: tuple[str, ...], waiver_task_id: str, **kwargs: Any) -> None:
        super().__init__(trigger_rule=TriggerRule.ALL_DONE, **kwargs)
        self.gates = gates
        self.waiver_task_id = waiver_task_id

    def execute(self, context: Context) -> None:
        """Leaves what needs a waiver (`waive`), a table of all gates (`table`), and who may not waive (`excluded`)."""
        from sebenza_ops.deployment.briefs import attested_people, excluded_people
        from sebenza_ops.deployment.gates import gates_table, judge_gates
        from sebenza_ops.evidence.facts import load

        run = ChangeRun.from_context(context, self.environment)
        task_instance = context["ti"]
        states = task_instance.get_task_states(dag_id=self.dag_id, run_ids=[context["run_id"]])[context["run_id"]]
        if all(str(states.get(gate_task_id(gate))) == "upstream_failed" for gate in self.gates):
            raise AirflowFailException("the gates were not asked: a task before them has failed")
        facts = load(run.ledger, run.holder.dag_id, run.holder.run_id).gates
        judgement = judge_gates(self.gates, facts)
        if judgement.final:
            raise AirflowFailException(
                f"the deployment stops here, nothing was changed: {judgement.text}. These can't be waived: "
                f"{', '.join(judgement.final)}."
            )
        # Each under its own key: later tasks take them apart, and a skip ends this task before it returns.
        task_instance.xcom_push(key="waive", value=dict(judgement.waivable))
        task_instance.xcom_push(key="table", value=gates_table(self.gates, facts))
        attested = attested_people(run.environment, self.parsed_plan())
        task_instance.xcom_push(key="excluded", value=excluded_people(run, attested))
        if judgement.all_passed:
            run.note(f"all {len(self.gates)} gates have passed", "success")
            waiver = [task for task in self.get_flat_relatives(upstream=False) if task.task_id == self.waiver_task_id]
            self.skip(ti=task_instance, tasks=waiver)


class DeploymentDecisionOperator(HumanDecisionOperator):
    """Base of a deployment's questions: four eyes, and a reservation that outlasts the wait.

    Args:
        excluded: People who may not approve, each with what they are; a template that gives a dictionary.
        sha: The commit that the question is about; a template.
    """

    template_fields = (*HumanDecisionOperator.template_fields, "excluded", "sha")

    def __init__(self, *, excluded: Any, sha: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.excluded = excluded
        self.sha = sha

    def execute(self, context: Context) -> Any:
        """Ask, with the environment reserved for as long as people have."""
        run = ChangeRun.from_context(context, self.environment)
        assert self.response_timeout is not None
        try:
            run.reserve(f"waiting for a decision on {self.sha[:12]}", self.response_timeout.total_seconds() + 600)
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return super().execute(context)

    def refusal(self, context: Context, name: str) -> str | None:
        """The requester and the author may not approve, where the policy says so."""
        from sebenza_ops.decisions import refusal_of

        return refusal_of(name, dict(self.excluded or {}))


class WaiveGatesOperator(DeploymentDecisionOperator):
    """Asks whether to go on although gates did not pass; records who has waived which, and why.

    Args:
        waive: The gates to waive, each with what it says; a template that gives a dictionary.
    """

    template_fields = (*DeploymentDecisionOperator.template_fields, "waive")

    def __init__(self, *, waive: Any, **kwargs: Any) -> None:
        super().__init__(ask_reason=True, **kwargs)
        self.waive = waive

    def on_approval(self, context: Context, approval: dict[str, str]) -> None:
        """Record the waivers."""
        from sebenza_ops.evidence.facts import GateFact, utc_now

        run = ChangeRun.from_context(context, self.environment)
        by = f"waived by {approval['approved_by']}: {approval['reason']}"
        run.record(
            [
                GateFact(name=name, verdict="waived", detail=f"{by} (it said: {detail})", at=utc_now())
                for name, detail in self.waive.items()
            ]
        )
        run.note(f"{', '.join(self.waive)} {by}", "warning")


class DeployFirstOperator(TriggerDagRunOperator):
    """Deploys the release in the environment that goes first, and waits for it, deferred.

    Give it a run id that is the same at each try: a try that was killed may have made the run, which is found again.
    """

    safe_to_retry = True
    ui_color = "#d6e6d0"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **{
                "retries": RETRIES,
                "retry_delay": timedelta(seconds=2),
                "wait_for_completion": True,
                "deferrable": True,
                "poke_interval": 2,
                "allowed_states": ["success"],
                "failed_states": ["failed"],
                **kwargs,
            }
        )

    def execute(self, context: Context) -> Any:
        """Start the run, or find it."""
        assert self.trigger_run_id is not None
        if context["ti"].get_dr_count(dag_id=self.trigger_dag_id, run_ids=[self.trigger_run_id]):
            from airflow.providers.standard.triggers.external_task import DagStateTrigger
            from airflow.utils.state import DagRunState

            self.log.info("%s was started by an earlier try, waiting for it", self.trigger_run_id)
            self.defer(
                trigger=DagStateTrigger(
                    dag_id=self.trigger_dag_id,
                    states=[DagRunState.SUCCESS, DagRunState.FAILED],
                    execution_dates=None,
                    run_ids=[self.trigger_run_id],
                    poll_interval=2,
                ),
                method_name="execute_complete",
            )
        return super().execute(context)


class SmokeTestOperator(PlannedOperator):
    """Tries the users' journeys in the environment that got the release first.

    Args:
        first_in: That environment's name.
    """

    ui_color = "#d6e6d0"

    def __init__(self, *, first_in: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first_in = first_in

    def execute(self, context: Context) -> list[str]:
        """Returns the results, one line each. Fails untried again when one did not pass."""
        from sebenza_ops.changes import find_environment
        from sebenza_ops.deployment.smoke import SmokeTestsFailedError, run_smoke_tests

        run = ChangeRun.from_context(context, self.environment)
        try:
            results = run_smoke_tests(find_environment(self.first_in), self.parsed_plan().release.release_id)
        except (SmokeTestsFailedError, ChangeRefusedError) as error:
            run.note(f"{self.first_in}: {error}", "error")
            raise AirflowFailException(f"{error}. {self.environment} was not touched.") from error
        run.note(f"{self.first_in}: {len(results)} smoke tests have passed", "success")
        return [result.text for result in results]


class BriefOperator(PlannedOperator):
    """Puts together what the person who decides needs to know.

    Args:
        gates: The names of the policy's gates.
        first: What the environment that got the release first has shown: lines; a template.
    """

    template_fields = (*PlannedOperator.template_fields, "first")

    def __init__(self, *, gates: tuple[str, ...], first: Any = None, **kwargs: Any) -> None:
        # One XCom a key, for the question that is made of them.
        super().__init__(multiple_outputs=True, **kwargs)
        self.gates = gates
        self.first = first

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns the briefing in Markdown, the commit, and who may not approve."""
        from sebenza_ops.deployment.briefs import brief

        run = ChangeRun.from_context(context, self.environment)
        lines = [str(line) for line in self.first or []]
        return brief(run, self.parsed_plan(), self.gates, lines)
