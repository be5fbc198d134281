"""Planning a deployment: looks at the estate from every side, and changes nothing but the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.deployment.baseline import HOW_TO_GO_ON, UNWELL, unwell_now
from sebenza_ops.deployment.plan import (
    DeploymentPlan,
    ReleaseRefusedError,
    Strategy,
    make_plan,
    make_rolling_plan,
)
from sebenza_ops.deployment.progress import Phase, Progress
from sebenza_ops.deployment.reconcile import ApplicationHostStates, LoadBalancerStates, reconcile
from sebenza_ops.deployment.release import Release
from sebenza_ops.deployment.rotation import drained_hosts
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.ssh import on_hosts


def plan_deployment(
    run: ChangeRun,
    release_data: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    is_draft: bool = False,
    strategy: Strategy = "blue_green",
) -> DeploymentPlan:
    """Compare what is live from every side, and plan. Changes nothing but the ledger.

    A draft is for people to decide by: it is shown, and not kept as what the run does.

    Raises:
        ReleaseRefusedError: The release is marked bad here, or is live already (AlreadyLiveError); or too few hosts
            would stay in rotation.
        DeploymentConflictError: The environment contradicts itself.
    """
    environment = run.environment
    if getattr(environment.policies, strategy) is None:
        raise ChangeRefusedError(f"environment {environment.name} has no policy {strategy}")
    release = Release.model_validate(release_data)
    _refuse_bad(run, release, str(params.get("force_reason") or ""), is_draft)
    resumed = None if is_draft else _unfinished_plan(run, release)
    if resumed is not None:
        return resumed
    if not is_draft:
        Progress(run).save(**{UNWELL: ""})
    with TrafficControl(environment) as control, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.states, PATIENT_TIMEOUT_SECONDS)
        hosts = on_hosts(
            environment.hosts_with_role(Role.APPLICATION),
            environment.ssh_conn_id,
            lambda session: ApplicationHost(environment, session).state(),
        )
        load_balancers = asked.result()
    make = _blue_green_plan if strategy == "blue_green" else _rolling_plan
    plan = make(environment, release, load_balancers, hosts, params)
    plan = check_unwell(run, plan, load_balancers, params)
    run.record([plan.fact()])
    if is_draft:
        run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, release_id=release.release_id)
        return plan
    run.ledger.deployments.update(
        run.holder.dag_id,
        run.holder.run_id,
        release_id=release.release_id,
        previous_release_id=plan.from_release,
        from_color=plan.from_color.value,
        to_color=plan.to_color.value,
        plan=plan.model_dump(mode="json"),
    )
    return plan


def check_unwell(
    run: ChangeRun, plan: DeploymentPlan, states: LoadBalancerStates, params: Mapping[str, Any]
) -> DeploymentPlan:
    """The plan with a warning of what is unwell already, and why it is made all the same.

    Raises ReleaseRefusedError when the environment is unwell, and nothing says that this release is the cure; a run
    that only plans is told so by the warning.
    """
    environment, policy = run.environment, run.environment.policies.blue_green
    cure_reason = str(params.get("cure_reason") or "")
    unwell = unwell_now(environment, plan.from_color, plan.from_release, policy, states) if policy is not None else []
    text = f"the environment is unwell before the change: {'; '.join(unwell)}"
    if unwell and not cure_reason and not params.get("plan_only"):
        Progress(run).save(**{UNWELL: text})
        raise ReleaseRefusedError(f"{text}. Nothing was touched. {HOW_TO_GO_ON}")
    warnings = [f"{text}: without cure_reason it is refused"] if unwell else []
    if cure_reason:
        warnings.append(f"deployed even if the environment is unwell before the change: {cure_reason}")
    return plan.model_copy(update={"cure_reason": cure_reason, "warnings": (*plan.warnings, *warnings)})


def _blue_green_plan(
    environment: Environment,
    release: Release,
    load_balancers: LoadBalancerStates,
    hosts: ApplicationHostStates,
    params: Mapping[str, Any],
) -> DeploymentPlan:
    policy = environment.policies.blue_green
    assert policy is not None
    chosen = params.get("converge_to")
    return make_plan(
        environment,
        release,
        reconcile(environment.application, load_balancers, hosts, Color(chosen) if chosen else None),
        bake_seconds=_given(params, "bake_seconds", policy.bake_seconds),
        keep_warm_seconds=_given(params, "keep_warm_seconds", policy.keep_warm_seconds),
    )


def _rolling_plan(
    environment: Environment,
    release: Release,
    load_balancers: LoadBalancerStates,
    hosts: ApplicationHostStates,
    params: Mapping[str, Any],
) -> DeploymentPlan:
    policy, judging = environment.policies.rolling, environment.policies.blue_green
    assert policy is not None
    assert judging is not None
    found = reconcile(environment.application, load_balancers, hosts, allow_mixed=True)
    live = found.live_color
    return make_rolling_plan(
        environment,
        release,
        found,
        batch_size=int(_given(params, "batch_size", policy.batch_size)),
        minimum_in_rotation=policy.minimum_in_rotation,
        watch_seconds=_given(params, "watch_seconds", policy.watch_seconds),
        bake_seconds=_given(params, "bake_seconds", judging.bake_seconds),
        out_of_rotation=drained_hosts(environment, live, load_balancers) if live is not None else (),
    )


def _given(params: Mapping[str, Any], name: str, default: float) -> float:
    value = params.get(name)
    return float(default if value is None else value)


def _unfinished_plan(run: ChangeRun, release: Release) -> DeploymentPlan | None:
    """The plan of this very run, when it was cleared or died with traffic on a color that has not passed yet.

    To plan anew would call the unproven release live. Without traffic moved, an old plan means nothing.
    """
    progress = Progress(run)
    record = run.ledger.deployments.get(run.holder.dag_id, run.holder.run_id)
    if progress.phase is None:
        return None
    plan = DeploymentPlan.model_validate(record.plan) if record.plan else None
    if plan is not None and plan.strategy == "rolling" and progress.phase is not Phase.UNDONE:
        run.note(f"going on where this run was stopped: phase {progress.phase}")
        return plan
    if plan is not None and plan.release.release_id == release.release_id and progress.phase is not Phase.UNDONE:
        with TrafficControl(run.environment) as control:
            colors = set(colors_now(run.environment, control.states(PATIENT_TIMEOUT_SECONDS)).values())
        if plan.to_color in colors:
            run.note(f"going on where this run was stopped: traffic is on {plan.to_color}, phase {progress.phase}")
            return plan
    progress.save(phase=None)
    return None


def _refuse_bad(run: ChangeRun, release: Release, force_reason: str, is_draft: bool) -> None:
    bad = run.ledger.releases.bad(run.environment.name, release.release_id)
    if bad is None:
        return
    if not force_reason:
        raise ReleaseRefusedError(
            f"{release.release_id} is marked bad in {run.environment.name} since "
            f"{bad.marked_at.isoformat(timespec='seconds')}: {bad.reason}. Nothing was touched. Deploy "
            "another version, or give force_reason."
        )
    if is_draft:
        run.note(
            f"{release.release_id} is marked bad ({bad.reason}); to be deployed all the same: {force_reason}", "warning"
        )
        return
    run.ledger.releases.forgive(run.environment.name, release.release_id, force_reason, run.holder)
    run.note(f"{release.release_id} was marked bad ({bad.reason}); deployed all the same: {force_reason}", "warning")
