"""The tasks before a deployment's first change, by the environment's policy: the same for every strategy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator, TaskGroup, TriggerRule, XComArg, chain

from sebenza_ops.deployment.build_operators import BuildReleaseOperator
from sebenza_ops.deployment.contract_operators import BackupBeforeChangeOperator
from sebenza_ops.deployment.gates import QUESTIONS
from sebenza_ops.deployment.operators import (
    GATES_GROUP,
    AcquireLeaseOperator,
    PlanDeploymentOperator,
)
from sebenza_ops.deployment.params import check_deployment_params
from sebenza_ops.deployment.plan import Strategy
from sebenza_ops.deployment.way_in_operators import (
    BriefOperator,
    DeployFirstOperator,
    DeploymentDecisionOperator,
    GateOperator,
    JudgeGatesOperator,
    ReserveOperator,
    SmokeTestOperator,
    WaiveGatesOperator,
)
from sebenza_ops.environments.models import DeploymentPolicy, Environment

# While the decision is a person's, an hour more or less is no matter; a forgotten run is.
WAIVER_TIMEOUT = timedelta(hours=1)
PASSED_OR_SKIPPED = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS


# The longest bake is an hour; time without data comes on top of it.
CHANGE_TIMEOUT = timedelta(hours=6)


def has_way_in(environment: Environment) -> bool:
    """Whether anything comes before the lease of a deployment: then it is reserved first."""
    policy = environment.policies.deployment or DeploymentPolicy()
    return bool(environment.policies.approvals or policy.gates or policy.first_in or policy.backup)


def deployment_timeout(environment: Environment) -> timedelta:
    """How long a deployment's run may take, waiting for people included."""
    approvals = environment.policies.approvals
    return CHANGE_TIMEOUT + (timedelta(seconds=approvals.timeout_seconds) if approvals is not None else timedelta(0))


@dataclass(frozen=True)
class WayIn:
    """What a strategy's own tasks go on from.

    Attributes:
        begins: The run's first task: the teardown's setup.
        plan: The plan that is carried out.
        ready: The last task before the first change.
    """

    begins: BaseOperator
    plan: PlanDeploymentOperator
    ready: BaseOperator


def way_in(environment: Environment, strategy: Strategy) -> WayIn:
    """Make the tasks. Inside a DAG's definition.

    Args:
        environment: The environment to deploy to.
        strategy: How traffic moves: "blue_green" or "rolling".
    """
    if not has_way_in(environment):
        return _at_once(environment, strategy)
    return _by_policy(environment, environment.policies.deployment or DeploymentPolicy(), strategy)


def _at_once(environment: Environment, strategy: Strategy) -> WayIn:
    name = environment.name
    lease = AcquireLeaseOperator(
        task_id="acquire_lease", environment=name, check=check_deployment_params, strategy=strategy
    )
    release = BuildReleaseOperator(task_id="ensure_release", environment=name, version="{{ params.version }}")
    plan = PlanDeploymentOperator(
        task_id="plan_deployment", environment=name, release=release.output, strategy=strategy
    )
    chain(lease, release, plan)
    return WayIn(lease, plan, plan)


def _by_policy(environment: Environment, policy: DeploymentPolicy, strategy: Strategy) -> WayIn:
    name = environment.name
    reserved = ReserveOperator(task_id="reserve", environment=name, check=check_deployment_params, strategy=strategy)
    release = BuildReleaseOperator(task_id="ensure_release", version="{{ params.version }}")
    draft = PlanDeploymentOperator(
        task_id="draft_plan", environment=name, release=release.output, is_draft=True, strategy=strategy
    )
    chain(reserved, release, draft)
    last: BaseOperator = draft
    if policy.gates:
        last = _gates(environment, policy, draft)
    if policy.first_in is not None:
        last = _first(environment, policy.first_in, draft, last)
    if environment.policies.approvals is not None:
        last = _approval(environment, policy, draft, last)
    lease = AcquireLeaseOperator(
        task_id="acquire_lease",
        environment=name,
        strategy=strategy,
        after_way_in=True,
        # The waiver before it is skipped when all gates have passed.
        trigger_rule=PASSED_OR_SKIPPED,
    )
    plan = PlanDeploymentOperator(
        task_id="plan_deployment",
        environment=name,
        release=release.output,
        approved=draft.output,
        strategy=strategy,
    )
    chain(last, lease, plan)
    # What is before may be skipped; a task whose predecessors are all skipped is skipped too.
    draft >> lease
    if not policy.backup:
        return WayIn(reserved, plan, plan)
    backup = BackupBeforeChangeOperator(
        task_id="backup_before_change",
        environment=name,
        execution_timeout=timedelta(seconds=environment.policies.backup_before_change.timeout_seconds + 300),
    )
    plan >> backup
    return WayIn(reserved, plan, backup)


def _gates(environment: Environment, policy: DeploymentPolicy, draft: PlanDeploymentOperator) -> BaseOperator:
    name = environment.name
    with TaskGroup(GATES_GROUP, tooltip="What must be true before anything is changed"):
        gates = [
            GateOperator(
                task_id=gate,
                environment=name,
                gate=gate,
                plan=draft.output,
                doc_md=QUESTIONS[gate],
                execution_timeout=timedelta(minutes=30),
            )
            for gate in policy.gates
        ]
    judged = JudgeGatesOperator(
        task_id="judge_gates",
        environment=name,
        plan=draft.output,
        gates=tuple(policy.gates),
        waiver_task_id="waive_gates",
    )
    waived = WaiveGatesOperator(
        task_id="waive_gates",
        environment=name,
        subject=f"Deploy to {name} although gates did not pass?",
        body="{{ ti.xcom_pull('judge_gates', key='table') }}\n\nWaiving goes on without what did not pass. Say why.",
        approve="Waive",
        response_timeout=WAIVER_TIMEOUT,
        waive=XComArg(judged, key="waive"),
        excluded=XComArg(judged, key="excluded"),
        sha="{{ ti.xcom_pull('draft_plan')['release']['sha'] }}",
    )
    draft >> gates >> judged >> waived
    return waived


def _first(environment: Environment, first: str, draft: PlanDeploymentOperator, last: BaseOperator) -> BaseOperator:
    deployed = DeployFirstOperator(
        task_id="deploy_first",
        trigger_dag_id=f"deploy_blue_green.{first}",
        trigger_run_id="for__{{ run_id }}__{{ dag_run.clear_number }}",
        conf={"version": "{{ ti.xcom_pull('draft_plan')['release']['sha'] }}"},
        trigger_rule=PASSED_OR_SKIPPED,
    )
    tested = SmokeTestOperator(task_id="smoke_test", environment=environment.name, first_in=first, plan=draft.output)
    chain(last, deployed, tested)
    draft >> deployed
    return tested


def _approval(
    environment: Environment, policy: DeploymentPolicy, draft: PlanDeploymentOperator, last: BaseOperator
) -> BaseOperator:
    approvals = environment.policies.approvals
    assert approvals is not None
    first: Any = last.output if policy.first_in is not None else None
    briefed = BriefOperator(
        task_id="brief",
        environment=environment.name,
        plan=draft.output,
        gates=tuple(policy.gates),
        first=first,
        trigger_rule=PASSED_OR_SKIPPED,
    )
    approved = DeploymentDecisionOperator(
        task_id="approve",
        environment=environment.name,
        subject="Deploy {{ ti.xcom_pull('draft_plan')['release']['release_id'] }} to " + f"{environment.name}?",
        body=XComArg(briefed, key="text"),
        response_timeout=timedelta(seconds=approvals.timeout_seconds),
        excluded=XComArg(briefed, key="excluded"),
        sha=XComArg(briefed, key="sha"),
    )
    chain(last, briefed, approved)
    draft >> briefed
    return approved
