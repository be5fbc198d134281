"""Going back to a release that was good: finding it, and moving traffic there.

Unlike a deployment, a rollback does not wait for a free lease, judges nothing by metrics, and is never taken back by
itself: a person has decided.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.baseline import Watch, figures_until
from sebenza_ops.deployment.good_releases import forget_good, good_on_hosts
from sebenza_ops.deployment.installed import InstalledReleases
from sebenza_ops.deployment.migrations import read_schema
from sebenza_ops.deployment.observe import servers_up
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.reconcile import ApplicationHostStates, LoadBalancerStates
from sebenza_ops.deployment.release import Release
from sebenza_ops.deployment.rollback_rules import (
    STRATEGY,
    AlreadyBackError,
    RollbackRefusedError,
    Running,
    bad_target,
    choose_color,
    choose_target,
    has_moved_nothing,
    may_be_started,
    running_now,
    why_unclear,
)
from sebenza_ops.deployment.schema_gate import rollback_is_possible
from sebenza_ops.deployment.steps import install_and_start
from sebenza_ops.deployment.switch import IDLE_UP_DEADLINE_SECONDS, SwitchFailedError, TrafficSwitch
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, TrafficControl, colors_now
from sebenza_ops.deployment.waits import not_healthy, release_urls
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.evidence.facts import PlannedStep
from sebenza_ops.ledger import Deployment, Lease, LedgerUnavailable, Outcome
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, raise_tokens, read_tokens
from sebenza_ops.systems.haproxy import LoadBalancerState
from sebenza_ops.systems.release_answers import missing_healthy_release
from sebenza_ops.systems.ssh import kept_sessions, on_hosts

# What is not moved by then is moved, or declared split, by the step that proves it.
MOVE_DEADLINE_SECONDS = 5.0
# When traffic was moved, kept for the comparison.
MOVED_AT = "moved_at"
HEALTH_POLL_SECONDS = 0.2


@kept_sessions()
def check_target(run: ChangeRun, requested: str) -> None:
    """Look for the release that was asked for before anybody is fenced off for it. A ledger that is down stops nothing.

    Raises RollbackRefusedError when nobody knows it, or it is marked bad.
    """
    environment, releases = run.environment, run.ledger.releases
    try:
        record = releases.find(requested) or releases.by_version(requested)
        if record is not None:
            release_id = record.release_id
        else:
            release_id = _find_release(run, requested, InstalledReleases(environment, _host_states(run))).release_id
        if releases.bad(environment.name, release_id) is not None:
            raise RollbackRefusedError(bad_target(release_id))
    except LedgerUnavailable as error:
        run.note(f"whether {requested} can be gone back to is looked at later, the ledger is down: {error}", "warning")


@kept_sessions()
def take_over(run: ChangeRun, purpose: str, reason: str, ttl_seconds: float) -> Lease | None:
    """Take the lease from whoever holds it, and make the hosts refuse that run. Returns the former holder's lease.

    Raises ChangeRefusedError when this run is an old one itself.
    """
    hosts = changed_hosts(run.environment)
    seen = [answer for answer in read_tokens(run.environment, hosts).values() if isinstance(answer, SeenToken)]
    latest = max(seen, key=lambda answer: answer.token, default=SeenToken(0))
    former = run.ledger.leases.current(run.environment.name)
    if former is not None and former.holder.is_run(run.holder):
        former = None
    lease = run.take_over(purpose, reason, ttl_seconds, latest.token)
    answers = raise_tokens(run.environment, hosts, run.fence)
    for name, answer in answers.items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"it could not be told the fencing token: {answer}", "warning", host=name)
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    if former is not None:
        run.note(f"{former.holder} was fenced off: it held the lease for {former.purpose}", "warning")
    if run.is_journaled:
        run.note(
            "the ledger is down: this run keeps a journal. By the hosts the last change was by "
            f"{latest.holder or 'nobody'} (since {latest.since or 'ever'}); if it still runs, it was fenced off",
            "warning",
        )
    return former


def plan_rollback(
    run: ChangeRun,
    requested: str,
    former: Lease | None,
    keep_warm_seconds: float,
    *,
    move: bool = False,
    database: bool = False,
) -> DeploymentPlan:
    """Find out what is live, and where to go back to; a run that has chosen once stays with it, tried again or cleared.

    Changes nothing but the ledger; with `move` it sends all traffic to a color that is warm, at once: the next task
    would start a second later. With `database` the release that was asked for may be live already: the database is what
    is left to bring back. Raises RollbackRefusedError.
    """
    with TrafficControl(run.environment) as control, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(control.states, PATIENT_TIMEOUT_SECONDS)
        hosts = _host_states(run)
        plan = _plan_rollback(run, requested, former, keep_warm_seconds, asked.result(), hosts, database=database)
        if move and plan.is_warm:
            _move_at_once(run, plan, control)
    return plan


def _plan_rollback(
    run: ChangeRun,
    requested: str,
    former: Lease | None,
    keep_warm_seconds: float,
    balancers: LoadBalancerStates,
    hosts: ApplicationHostStates,
    *,
    database: bool,
) -> DeploymentPlan:
    environment, ledger = run.environment, run.ledger
    if not any(isinstance(state, LoadBalancerState) for state in balancers.values()):
        raise RollbackRefusedError(f"no load balancer can be asked: {'; '.join(map(str, balancers.values()))}")
    running = running_now(environment, balancers, hosts)
    for problem in running.problems:
        run.note(f"going on without it: {problem}", "warning")
    record = ledger.deployments.find(former.holder.dag_id, former.holder.run_id) if former is not None else None
    if not requested and has_moved_nothing(record, running.live_release):
        raise AlreadyBackError(
            f"{former.holder if former else 'the run'} was fenced off before it moved traffic, which is on "
            f"{running.live_release}, as before: nothing to go back. To go further back, give `to`."
        )
    installed = InstalledReleases(environment, hosts)
    wanted = _find_release(run, requested, installed).release_id if requested else None
    chosen = _chosen_before(run, requested, record)
    good = good_on_hosts(hosts) if run.is_journaled else _good_releases(run, running.live_release)
    if run.is_journaled:
        unclear = None if requested or chosen else why_unclear(running, good)
        if unclear is not None:
            raise RollbackRefusedError(unclear)
        run.note("what is marked bad can't be told while the ledger is down", "warning")
    candidates = {*good, *filter(None, (wanted, chosen))}
    bad = {name for name in candidates if ledger.releases.bad(environment.name, name) is not None}
    is_back = database and wanted is not None and wanted == running.live_release and not _has_left(run)
    if chosen is not None and chosen not in bad:
        target = chosen
    else:
        target = choose_target(wanted, None if is_back else running.live_release, good, bad)
    color, is_warm = choose_color(running, target)
    release = _find_release(run, target, installed)
    _refuse_missing_schema(run, release, hosts)
    plan = _plan(environment, release, running, color, is_warm, keep_warm_seconds)
    if is_back:
        # What is on the other color now was not left by this run, and is not marked bad.
        plan = plan.model_copy(update={"from_release": None})
    run.record([plan.fact()])
    ledger.deployments.update(
        run.holder.dag_id,
        run.holder.run_id,
        release_id=target,
        previous_release_id=plan.from_release,
        from_color=plan.from_color.value,
        to_color=plan.to_color.value,
        plan=plan.model_dump(mode="json"),
    )
    return plan


@kept_sessions()
def start_target(run: ChangeRun, plan: DeploymentPlan) -> None:
    """Start the release on the color without traffic, await it there, and send all traffic to it at once.

    Tried again after traffic has moved, it starts nothing anew.

    Raises:
        SwitchFailedError: It does not become healthy; traffic was not touched.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host could not install or start it; traffic was not touched.
    """
    with TrafficControl(run.environment) as control:
        colors = colors_now(run.environment, control.states(PATIENT_TIMEOUT_SECONDS))
        if may_be_started(plan.to_color, colors):
            install_and_start(run, plan, control)
        else:
            run.note(f"{plan.to_color} has traffic already: left as it is")
        _await_healthy(run, plan, control)
        _await_up(run, plan, control)
        _move_at_once(run, plan, control)


def _await_healthy(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    """Wait until every host answers healthily with exactly this release, seen from every load balancer."""
    policy = run.environment.policies.blue_green
    wait_seconds = float(policy.health_timeout_seconds) if policy is not None else 60.0
    version, health = release_urls(run.environment, plan)
    until = time.monotonic() + wait_seconds
    while True:
        answers = control.probe([*version.values(), *health.values()])
        missing = missing_healthy_release(
            answers, version_urls=version, health_urls=health, release_id=plan.release.release_id
        )
        if not missing:
            break
        if time.monotonic() >= until:
            raise SwitchFailedError(not_healthy(run.environment, plan, missing, wait_seconds))
        time.sleep(HEALTH_POLL_SECONDS)
    run.note(f"{plan.release.release_id} is healthy on {plan.to_color}, seen from every load balancer", "success")


def _move_at_once(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    """Raises FencedOffError."""
    began = time.monotonic()
    left = control.settle(plan.to_color, run.fence, MOVE_DEADLINE_SECONDS)
    took_ms = (time.monotonic() - began) * 1000
    progress = Progress(run)
    if not progress.number(MOVED_AT, 0):
        progress.save(**{MOVED_AT: time.time()})
    if left:
        run.note(f"not every load balancer was moved at once, going on: {'; '.join(left.values())}", "warning")
        return
    run.note(f"new requests go to {plan.to_color} on every load balancer (took {took_ms:.0f} ms)", mark="switch_back")


def _chosen_before(run: ChangeRun, requested: str, former: Deployment | None) -> str | None:
    """What an earlier attempt of this run goes back to, or the rollback that it has fenced off.

    With traffic moved already, choosing anew would go further back, or forward again.
    """
    own = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    if own is not None and own.release_id is not None:
        return own.release_id
    return former.release_id if former is not None and former.strategy == STRATEGY and not requested else None


def _has_left(run: ChangeRun) -> bool:
    """Whether an earlier attempt of this run has planned to leave a release; traffic may be off it already."""
    own = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    return own is not None and own.previous_release_id is not None


def _host_states(run: ChangeRun) -> ApplicationHostStates:
    environment = run.environment
    return on_hosts(
        environment.hosts_with_role(Role.APPLICATION),
        environment.ssh_conn_id,
        lambda session: ApplicationHost(environment, session).state(),
    )


def _refuse_missing_schema(run: ChangeRun, release: Release, hosts: ApplicationHostStates) -> None:
    """A release whose tables are gone would fail every request; a schema that can't be read stops no emergency."""
    try:
        schema = read_schema(run.environment, hosts)
    except OutsideSystemError as error:
        run.note(f"whether the schema still fits {release.release_id} can't be told, going on: {error}", "warning")
        return
    verdict = rollback_is_possible(release, schema.contract_revisions)
    if not verdict.possible:
        raise RollbackRefusedError(f"{verdict.reason} Traffic was not touched.")


def _good_releases(run: ChangeRun, live_release: str | None) -> list[str]:
    """Releases that were verified here, the newest first; then what ran before the first one that was."""
    name = run.environment.name
    found = [known.release_id for known in run.ledger.releases.known_good(name)]
    for deployment in run.ledger.deployments.recent(name, limit=50):
        if deployment.outcome is Outcome.SUCCEEDED and deployment.release_id == live_release:
            found += [previous for previous in (deployment.previous_release_id,) if previous and previous not in found]
    return found


def _find_release(run: ChangeRun, name: str, installed: InstalledReleases) -> Release:
    """A release by its id or its version, from the ledger or else from the hosts. Raises RollbackRefusedError."""
    record = run.ledger.releases.find(name) or run.ledger.releases.by_version(name)
    if record is not None:
        return Release.model_validate(record.manifest)
    release = installed.find(name)
    if release is None:
        raise RollbackRefusedError(
            f"{name!r} is no release that the ledger or a host knows: give `to` as `build_release` or the plan of a "
            "deployment shows it. Traffic was not touched."
        )
    return release


def _plan(
    environment: Environment, release: Release, running: Running, color: Color, is_warm: bool, keep_warm_seconds: float
) -> DeploymentPlan:
    hosts = tuple(host.name for host in environment.hosts_with_role(Role.APPLICATION))
    balancers = tuple(host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER))
    backend = environment.application.colors[color].backend
    steps = (
        [] if is_warm else [PlannedStep(host=name, action=f"start {release.release_id} on {color}") for name in hosts]
    )
    steps += [PlannedStep(host=name, action=f"send new requests to {backend}") for name in balancers]
    return DeploymentPlan(
        environment=environment.name,
        release=release,
        from_color=color.other,
        to_color=color,
        from_release=running.releases[color.other],
        hosts=hosts,
        load_balancers=balancers,
        steps=tuple(steps),
        warnings=running.problems,
        bake_seconds=0,
        keep_warm_seconds=keep_warm_seconds,
        is_warm=is_warm,
    )


def switch_back(run: ChangeRun, plan: DeploymentPlan, reason: str, *, mark_bad: bool) -> float:
    """Send all traffic to the release that was chosen, prove it, and mark the one that was left bad.

    Returns the seconds that it took to move traffic, proof included.

    Raises:
        SwitchFailedError: The color has no healthy server; traffic was not touched. Or the proof failed.
        SplitTrafficError: A load balancer could not be told.
        FencedOffError: A later change holds the environment.
    """
    with TrafficControl(run.environment) as control:
        if not plan.is_warm:
            _await_up(run, plan, control)
        moved_at = Progress(run).number(MOVED_AT, time.time())
        began = time.monotonic()
        wrong = TrafficSwitch(run, plan, control).bring_back(plan.to_color, plan.release.release_id, reason, "rollback")
        took_seconds = time.monotonic() - began
        if mark_bad and plan.from_release is not None and plan.from_release != plan.release.release_id:
            run.ledger.releases.mark_bad(run.environment.name, plan.from_release, f"rolled back: {reason}", run.holder)
            run.note(f"{plan.from_release} is marked bad in {run.environment.name}", "warning")
            forget_good(run, changed_hosts(run.environment), plan.from_release)
        _compare(run, plan, control, moved_at)
    if wrong:
        raise SwitchFailedError(f"traffic was sent to {plan.to_color}, but the proof failed: {'; '.join(wrong)}")
    return took_seconds


def _compare(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl, moved_at: float) -> None:
    """Record how the release that was left did, and how the one that is back does. Never stops a rollback."""
    environment = run.environment
    policy = environment.policies.blue_green
    if policy is None:
        return
    try:
        figures = [figures_until(environment, plan.from_color, plan.from_release, policy, moved_at)]
    except Exception as error:
        run.note(f"how {plan.from_color} did before the rollback can't be told: {error}", "warning")
        figures = []
    try:
        watch = Watch(environment, plan.to_color, plan.release.release_id, policy, control)
        figures.append(watch.judge("after"))
    except Exception as error:
        run.note(f"how {plan.to_color} does after the rollback can't be told: {error}", "warning")
    run.record(figures)
    for one in figures:
        level = "success" if one.verdict == "pass" else "warning"
        run.note(f"{one.moment} the rollback, {one.release_id or 'what ran'} on {one.color}: {one.reason}", level)


def _await_up(run: ChangeRun, plan: DeploymentPlan, control: TrafficControl) -> None:
    """Wait until all load balancers see all servers up; at the end of the wait, one on each is enough."""
    until = time.monotonic() + IDLE_UP_DEADLINE_SECONDS
    while True:
        states = control.states(PATIENT_TIMEOUT_SECONDS)
        fewest = servers_up(run.environment, plan.to_color, states)
        if fewest >= len(plan.hosts):
            return
        if time.monotonic() >= until:
            break
        time.sleep(0.3)
    if fewest == 0:
        raise SwitchFailedError(f"{plan.to_color} has no healthy server: traffic stays on {plan.from_color}")
    run.note(
        f"only {fewest} of {len(plan.hosts)} servers of {plan.to_color} are healthy; going back all the same", "warning"
    )
