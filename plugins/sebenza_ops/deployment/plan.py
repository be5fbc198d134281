"""The plan of a deployment: what will change on which host, decided before anything changes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

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


Strategy = Literal["blue_green", "rolling"]


class DeploymentPlan(BaseModel):
    """What a deployment or a rollback will do. Handed from task to task; holds no secret.

    Attributes:
        hosts: The application hosts, in the order in which they are changed.
        is_warm: The color runs the release already, healthy, so that nothing has to be started.
        strategy: Blue-green moves traffic to the other color; rolling changes the live color host by host, so that
            `from_color` and `to_color` are the same.
        previous: Rolling: the release that each host goes back to.
        batch_size: Rolling: so many hosts are changed at once.
        minimum_in_rotation: Rolling: so many hosts stay in rotation on every load balancer.
        watch_seconds: Rolling: each batch is watched for so long.
        cure_reason: Why the release is deployed although the environment may be unwell; empty: it is not then.
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
    strategy: Strategy = "blue_green"
    previous: dict[str, str] = {}
    batch_size: int = 1
    minimum_in_rotation: int = 1
    watch_seconds: float = 0
    cure_reason: str = ""

    @property
    def batches(self) -> tuple[tuple[str, ...], ...]:
        """Rolling: the hosts that are changed together, in their order."""
        size = self.batch_size
        return tuple(self.hosts[start : start + size] for start in range(0, len(self.hosts), size))

    @property
    def way_back(self) -> str:
        """What happens when the release does not pass, in words."""
        if self.strategy == "rolling":
            return f"the hosts that have it go back to {self.from_release}"
        return f"traffic goes back to {self.from_release} on {self.from_color}"

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
    target = _live_color(environment, release, found).other
    assert found.live_color is not None
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


def make_rolling_plan(
    environment: Environment,
    release: Release,
    found: Reconciliation,
    *,
    batch_size: int,
    minimum_in_rotation: int,
    watch_seconds: float,
    bake_seconds: float,
    out_of_rotation: Collection[str] = (),
) -> DeploymentPlan:
    """The plan of a rolling deployment inside the live color, or why there can be none.

    Args:
        environment: The environment.
        release: The release to deploy.
        found: What is live, with hosts of different releases allowed.
        batch_size: So many hosts are changed at once.
        minimum_in_rotation: So many hosts stay in rotation on every load balancer.
        watch_seconds: Each batch is watched for so long.
        bake_seconds: The whole is watched for so long.
        out_of_rotation: Hosts that get no traffic now: they are changed first, which costs no capacity.

    Raises:
        DeploymentConflictError: The environment contradicts itself.
        ReleaseRefusedError: Too few hosts would stay in rotation; or it is live already (AlreadyLiveError).
    """
    live = _live_color(environment, release, found)
    names = [host.name for host in environment.hosts_with_role(Role.APPLICATION)]
    if len(names) - batch_size < minimum_in_rotation:
        raise ReleaseRefusedError(
            f"batch_size {batch_size}: of {len(names)} application hosts only {max(len(names) - batch_size, 0)} would "
            f"stay in rotation, {minimum_in_rotation} are the minimum. Nothing was touched."
        )
    others = [one for one in found.live_releases.values() if one is not None and one != release.release_id]
    if not others:
        raise DeploymentConflictError(
            f"{environment.name} can't be changed host by host, nothing was touched: no host of {live} runs a release "
            "that could be gone back to. Deploy it blue-green."
        )
    before = max(sorted(set(others)), key=others.count)
    previous = {
        name: running if (running := found.live_releases.get(name)) not in (None, release.release_id) else before
        for name in names
    }
    repairs = {**found.repairs, **found.host_repairs}
    hosts = sorted(names, key=lambda name: name not in out_of_rotation)
    return DeploymentPlan(
        environment=environment.name,
        release=release,
        from_color=live,
        to_color=live,
        from_release=before,
        hosts=tuple(hosts),
        load_balancers=tuple(host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER)),
        repairs=repairs,
        steps=_rolling_steps(environment, release, found, hosts, live),
        warnings=(
            *found.warnings,
            *found.notices,
            *(f"{name}: it is out of rotation; changed first" for name in sorted(out_of_rotation)),
            *(f"{name}: {what}; repaired first" for name, what in repairs.items()),
        ),
        bake_seconds=bake_seconds,
        keep_warm_seconds=0,
        strategy="rolling",
        previous={name: str(running) for name, running in previous.items()},
        batch_size=batch_size,
        minimum_in_rotation=minimum_in_rotation,
        watch_seconds=watch_seconds,
    )


def _live_color(environment: Environment, release: Release, found: Reconciliation) -> Color:
    if found.conflicts or found.live_color is None:
        reasons = "; ".join(found.conflicts) or "no load balancer tells which color is live"
        raise DeploymentConflictError(f"{environment.name} can't be changed now, nothing was touched: {reasons}")
    # Load balancers that disagree, or files that contradict them, are something to do.
    if found.live_release == release.release_id and not found.warnings and not found.repairs:
        raise AlreadyLiveError(
            f"{release.release_id} is live on {found.live_color} in {environment.name} already: nothing to do"
        )
    return found.live_color


def _repair_steps(found: Reconciliation) -> list[PlannedStep]:
    return [
        PlannedStep(host=name, action=f"repair from the load balancers: {what}")
        for name, what in {**found.repairs, **found.host_repairs}.items()
    ]


def _expand_steps(host: str, release: Release) -> list[PlannedStep]:
    if not release.migrations:
        return []
    action = f"expand the schema up to revision {release.schema_revision}, where it is lower"
    return [PlannedStep(host=host, action=action)]


def _rolling_steps(
    environment: Environment, release: Release, found: Reconciliation, hosts: Sequence[str], live: Color
) -> tuple[PlannedStep, ...]:
    balancers = ", ".join(host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER))
    steps = [*_repair_steps(found), *_expand_steps(hosts[0], release)]
    for name in hosts:
        running = found.live_releases.get(name) or "nothing"
        steps.append(
            PlannedStep(
                host=name,
                action=f"drain it at {balancers}, start {release.release_id} on {live} in place of {running}, "
                "prove it, put it back",
            )
        )
    return tuple(steps)


def _steps(environment: Environment, release: Release, found: Reconciliation, target: Color) -> tuple[PlannedStep, ...]:
    assert found.live_color is not None
    ports = environment.application.colors
    hosts = [host.name for host in environment.hosts_with_role(Role.APPLICATION)]
    balancers = [host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER)]
    steps = _repair_steps(found)
    for name in hosts:
        action = f"install {release.release_id}, start it on {target} (port {ports[target].process_port})"
        if found.idle_release and found.idle_release != release.release_id:
            action += f" in place of {found.idle_release}"
        steps.append(PlannedStep(host=name, action=action))
    steps += _expand_steps(hosts[0], release)
    before, after = ports[found.live_color].backend, ports[target].backend
    steps += [PlannedStep(host=name, action=f"send new requests to {after} in place of {before}") for name in balancers]
    steps += [PlannedStep(host=name, action=f"stop {found.live_color}, after it was kept warm") for name in hosts]
    return tuple(steps)
