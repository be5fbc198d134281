"""What each step of a deployment does on the estate; the operators call these."""

from __future__ import annotations

from collections.abc import Mapping

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.baseline import watched_meanwhile
from sebenza_ops.deployment.builds import release_storage
from sebenza_ops.deployment.good_releases import LAST_GOOD_RELEASE, remember_good
from sebenza_ops.deployment.migrations import expand_schema
from sebenza_ops.deployment.plan import (
    DeploymentPlan,
)
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.release import Release, artifact_key
from sebenza_ops.deployment.retention import releases_to_prune
from sebenza_ops.deployment.rotation import restore_rotation
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.environments.env_file import render_env_file
from sebenza_ops.environments.models import Role
from sebenza_ops.leases import take_and_tell
from sebenza_ops.ledger import LeaseKind, LedgerUnavailable
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.application_secrets import resolve_secrets
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.fencing import changed_hosts
from sebenza_ops.systems.ssh import HostSession, kept_sessions, on_hosts, raise_first_error

REPAIR_DEADLINE_SECONDS = 15.0


class PlanOutdatedError(Exception):
    """The environment is no longer what the plan was made for; nothing was changed by this step."""


def take_lease(
    run: ChangeRun,
    *,
    purpose: str,
    ttl_seconds: float,
    version: str,
    housekeeping: bool = False,
    plan_only: bool = False,
    strategy: str = "blue_green",
) -> int:
    """Take the lease with a token above every one that a host has seen, and make the hosts refuse lower ones.

    Returns the token. Raises ChangeRefusedError when another run holds the lease, or the environment is frozen. A host
    that can't be reached is left to the plan, which names it and refuses.
    """
    # What changes nothing must not keep an earlier run from being cleared.
    kind = LeaseKind.HOUSEKEEPING if housekeeping or plan_only else LeaseKind.CHANGE

    def record() -> None:
        holder = run.holder
        run.ledger.deployments.start(
            run.environment.name, holder.dag_id, holder.run_id, holder.actor, version, None, strategy
        )

    return take_and_tell(
        run, purpose, ttl_seconds, kind, respect_freeze=not plan_only, record=None if housekeeping else record
    )


@kept_sessions()
def deploy_to_idle_color(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Install the release on all hosts at once, expand the schema, start the idle color.

    Raises PlanOutdatedError when a load balancer does not send to the color that the plan calls live, SchemaChangeError
    when the schema can't be expanded now, and the hosts' errors.
    """
    if Progress(run).phase is not None:
        run.note(f"{plan.to_color} has traffic from this run already: left as it is")
        return
    with TrafficControl(run.environment) as control:
        _repair(run, plan, control)
        with watched_meanwhile(run, plan):
            _install(run, plan)
            if plan.release.migrations:
                _expand_schema(run, plan)
            _start(run, plan, control)


@kept_sessions()
def prepare_hosts(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Install the release on all hosts at once and expand the schema; what runs is not touched.

    Raises as `deploy_to_idle_color`.
    """
    if Progress(run).phase is not None:
        run.note("the roll-out of this run has begun: nothing to prepare")
        return
    with TrafficControl(run.environment) as control:
        _repair(run, plan, control)
    with watched_meanwhile(run, plan):
        _fetch(run, plan)
        if plan.release.migrations:
            _expand_schema(run, plan)


def install_and_start(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    """Install a release where it is missing and start its color, which has no traffic. The schema stays as it is."""
    environment, release = run.environment, plan.release

    def look(session: HostSession) -> str:
        # Without a way to the artifact: what is on every host needs no object storage.
        host = ApplicationHost(environment, session)
        return host.install(run.fence, release.release_id, release.sha256, release.size_bytes, "")

    found = on_hosts([environment.host(name) for name in plan.hosts], environment.ssh_conn_id, look)
    if all(answer == "present" for answer in found.values()):
        run.note(f"{release.release_id} is on {', '.join(plan.hosts)}, verified by SHA-256")
    else:
        _fetch(run, plan)
    _configure(run, plan)
    _start(run, plan, control)


def _install(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Fetch the release, and configure the color for it."""
    _fetch(run, plan)
    _configure(run, plan)


def _configure(run: ChangeRun, plan: DeploymentPlan) -> None:
    environment = run.environment
    secrets = resolve_secrets(environment)

    def configure(session: HostSession) -> None:
        text = render_env_file(environment, plan.to_color, session.host, plan.release.release_id, secrets)
        ApplicationHost(environment, session).configure(run.fence, plan.to_color, plan.release.release_id, text)

    hosts = [environment.host(name) for name in plan.hosts]
    raise_first_error(on_hosts(hosts, environment.ssh_conn_id, configure))
    run.note(f"{plan.to_color} is configured for {plan.release.release_id} on {', '.join(plan.hosts)}")


def _fetch(run: ChangeRun, plan: DeploymentPlan) -> None:
    environment, release = run.environment, plan.release
    source = _artifact_source(run, release)

    def install(session: HostSession) -> str:
        host = ApplicationHost(environment, session)
        return host.install(run.fence, release.release_id, release.sha256, release.size_bytes, source)

    installed = on_hosts([environment.host(name) for name in plan.hosts], environment.ssh_conn_id, install)
    raise_first_error(installed)
    for name, done in installed.items():
        run.note(f"{release.release_id} {done}, verified by SHA-256", host=name)


def _artifact_source(run: ChangeRun, release: Release) -> str:
    """Where hosts get the artifact; empty when no URL can be signed, for hosts that have it already need none."""
    try:
        return release_storage(run.environment).transfer_source(artifact_key(release.sha))
    except OutsideSystemError as error:
        run.note(f"hosts that lack {release.release_id} can't get it: {error}", "warning")
        return ""


def _start(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    environment = run.environment

    def start(session: HostSession) -> None:
        ApplicationHost(environment, session).start(run.fence, plan.to_color)

    hosts = [environment.host(name) for name in plan.hosts]
    raise_first_error(on_hosts(hosts, environment.ssh_conn_id, start))
    run.note(f"{plan.to_color} started on {', '.join(plan.hosts)}")
    restore_rotation(run, control, plan.to_color, plan.hosts)


def _repair(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    """Make every load balancer, its file and every marker say the live color; refuse when one has moved since."""
    live = plan.from_color
    colors = colors_now(run.environment, control.states(PATIENT_TIMEOUT_SECONDS))
    moved = [name for name, color in colors.items() if color is not live and name not in plan.repairs]
    if moved:
        raise PlanOutdatedError(
            f"{', '.join(moved)} does not send to {live} as when the plan was made; nothing was changed by this "
            "step. Start a new run."
        )
    if set(plan.repairs) & set(plan.load_balancers):
        left = control.settle(live, run.fence, REPAIR_DEADLINE_SECONDS)
        if left:
            raise PlanOutdatedError(f"load balancers could not be brought to {live}: {'; '.join(left.values())}")
        raise_first_error(dict(control.persist(live, run.fence)))
    wrong_markers = [name for name in plan.repairs if name in plan.hosts]
    _write_markers(run, wrong_markers, {"current-color": live.value})
    for name, what in plan.repairs.items():
        run.note(f"repaired: {what}; now all say {live}", "warning", host=name)


def _expand_schema(run: ChangeRun, plan: DeploymentPlan) -> None:
    first = plan.hosts[0]
    expand_schema(run, first, plan.to_color, plan.release.release_id)
    run.note(f"schema expanded as far as revision {plan.release.schema_revision}", host=first)


def record_deployment(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Write the last known good release and the live color on every host, and in the ledger."""
    environment = run.environment
    markers = {LAST_GOOD_RELEASE: plan.release.release_id, "current-color": plan.to_color.value}
    _write_markers(run, [host.name for host in changed_hosts(environment)], markers)
    run.ledger.releases.set_last_known_good(environment.name, plan.release.release_id, run.holder)
    run.note(f"{plan.release.release_id} is the last known good release of {environment.name}", "success")


@kept_sessions()
def prune_releases(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Remove old releases from the application hosts, but none that a rollback may need. Notes what could not be.

    Object storage keeps them all: a rollback to one that was removed fetches it again.
    """
    environment, keep = run.environment, run.environment.policies.retention.releases
    if run.is_journaled:
        run.note("no old release was removed: the ledger is down, and does not tell which are good", "warning")
        return
    try:
        good = [known.release_id for known in run.ledger.releases.known_good(environment.name, limit=keep)]
    except LedgerUnavailable as error:
        run.note(f"no old release was removed, the ledger does not tell which are good: {error}", "warning")
        return

    def prune(session: HostSession) -> tuple[str, ...]:
        host = ApplicationHost(environment, session)
        state = host.state()
        protected = {plan.release.release_id, plan.from_release, state.last_good_release, *plan.previous.values()}
        protected |= {process.cwd.rstrip("/").rsplit("/", 1)[-1] for process in state.processes or ()}
        protected |= {*good[:2], *state.good_releases[:2]}
        gone = releases_to_prune(state.releases, {name for name in protected if name}, keep)
        return host.prune(run.fence, gone) if gone else ()

    answers = on_hosts(environment.hosts_with_role(Role.APPLICATION), environment.ssh_conn_id, prune)
    for name, answer in answers.items():
        if isinstance(answer, FencedOffError):
            raise answer
        if isinstance(answer, OutsideSystemError):
            run.note(f"old releases could not be removed: {answer}", "warning", host=name)
        elif answer:
            run.note(f"removed {', '.join(answer)}; the newest {keep} stay", host=name)


def _write_markers(run: ChangeRun, names: list[str], markers: Mapping[str, str]) -> None:
    environment = run.environment

    def write(session: HostSession) -> None:
        host = ApplicationHost(environment, session)
        if LAST_GOOD_RELEASE in markers:
            remember_good(host, run, markers[LAST_GOOD_RELEASE])
        for marker, value in markers.items():
            host.write_marker(run.fence, marker, value)

    raise_first_error(on_hosts([environment.host(name) for name in names], environment.ssh_conn_id, write))
