"""The plan of a blue-green deployment: what will change on which host, decided before anything changes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from sebenza_ops.deployment.reconcile import Reconciliation
from sebenza_ops.deployment.release import Release
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.evidence.facts import PlanFact, PlannedStep


class DeploymentConflictError(Exception):
    """The environment contradicts itself: nothing may be changed before a human has looked."""


class ReleaseRefusedError(Exception):
    """The release may not be deployed."""


class AlreadyLiveError(ReleaseRefusedError):
    """The release is what runs: there is nothing to do."""


class DeploymentPlan(BaseModel):
    """What a deployment or a rollback will do. Handed from task to task; holds no secret.

    `is_warm` says that the color runs the release already, healthy, so that nothing has to be started.
    """

    model_config = ConfigDict(frozen=True)

    environment: str
    release: Release
    from_color: Color
    to_color: Color
    from_release: str | None
    hosts: tuple[str, ...]
    load_balancers: tuple[str, ...]
    repairs: dict[str, str] = {}
    steps: tuple[PlannedStep, ...] = ()
    warnings: tuple[str, ...] = ()
    bake_seconds: float
    keep_warm_seconds: float
    is_warm: bool = False

    def fact(self) -> PlanFact:
        """The plan as evidence."""
        return PlanFact(
            environment=self.environment,
            release_id=self.release.release_id,
            version=self.release.version,
            sha=self.release.sha,
            from_color=self.from_color.value,
            to_color=self.to_color.value,
            from_release=self.from_release,
            steps=self.steps,
            warnings=self.warnings,
        )

    def text(self) -> str:
        """The plan as lines for a log."""
        lines = [
            f"Plan for {self.environment}: {self.from_release or 'nothing'} on {self.from_color} "
            f"-> {self.release.release_id} on {self.to_color}"
        ]
        lines += [f"  {step.host}: {step.action}" for step in self.steps]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def make_plan(
    environment: Environment,
    release: Release,
    found: Reconciliation,
    *,
    bake_seconds: float,
    keep_warm_seconds: float,
) -> DeploymentPlan:
    """The plan, or why there can be none.

    Raises:
        DeploymentConflictError: The environment contradicts itself.
        AlreadyLiveError: The release runs already.
    """
    if found.conflicts or found.live_color is None:
        reasons = "; ".join(found.conflicts) or "no load balancer tells which color is live"
        raise DeploymentConflictError(f"{environment.name} can't be changed now, nothing was touched: {reasons}")
    # Load balancers that disagree, or files that contradict them, are something to do.
    if found.live_release == release.release_id and not found.warnings and not found.repairs:
        raise AlreadyLiveError(
            f"{release.release_id} is live on {found.live_color} in {environment.name} already: nothing to do"
        )
    target = found.live_color.other
    repairs = {**found.repairs, **found.host_repairs}
    hosts = environment.hosts_with_role(Role.APPLICATION)
    balancers = environment.hosts_with_role(Role.LOAD_BALANCER)
    return DeploymentPlan(
        environment=environment.name,
        release=release,
        from_color=found.live_color,
        to_color=target,
        from_release=found.live_release,
        hosts=tuple(host.name for host in hosts),
        load_balancers=tuple(host.name for host in balancers),
        repairs=repairs,
        steps=_steps(environment, release, found, target),
        warnings=(
            *found.warnings,
            *found.notices,
            *(f"{name}: {what}; repaired first" for name, what in repairs.items()),
        ),
        bake_seconds=bake_seconds,
        keep_warm_seconds=keep_warm_seconds,
    )


def _steps(environment: Environment, release: Release, found: Reconciliation, target: Color) -> tuple[PlannedStep, ...]:
    assert found.live_color is not None
    ports = environment.application.colors
    hosts = [host.name for host in environment.hosts_with_role(Role.APPLICATION)]
    balancers = [host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER)]
    steps = [
        PlannedStep(host=name, action=f"repair from the load balancers: {what}")
        for name, what in {**found.repairs, **found.host_repairs}.items()
    ]
    for name in hosts:
        action = f"install {release.release_id}, start it on {target} (port {ports[target].process_port})"
        if found.idle_release and found.idle_release != release.release_id:
            action += f" in place of {found.idle_release}"
        steps.append(PlannedStep(host=name, action=action))
    if release.migrations:
        steps.append(
            PlannedStep(
                host=hosts[0], action=f"expand the schema up to revision {release.schema_revision}, where it is lower"
            )
        )
    before, after = ports[found.live_color].backend, ports[target].backend
    steps += [PlannedStep(host=name, action=f"send new requests to {after} in place of {before}") for name in balancers]
    steps += [PlannedStep(host=name, action=f"stop {found.live_color}, after it was kept warm") for name in hosts]
    return tuple(steps)
