"""Back to the primary site: its servers follow again, then the primary is moved there with nothing lost."""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment, Role, Service
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.disaster_application import choose_release
from sebenza_ops.recovery.disaster_assess import Databases, databases, look
from sebenza_ops.recovery.disaster_plan import DatabaseTarget, DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import planned_before, save_progress
from sebenza_ops.recovery.disaster_rules import DisasterType, Recommendation, Verdict, judge_site
from sebenza_ops.recovery.pair import POLL_SECONDS, Pair
from sebenza_ops.recovery.rejoin import RejoinFailedError, rejoin
from sebenza_ops.recovery.sites import on_sites
from sebenza_ops.recovery.switch_plan import (
    Kind,
    Loss,
    SwitchPlan,
    describe,
    follows,
    position_reached,
    server_states,
)
from sebenza_ops.systems.database_endpoint import DatabaseEndpoint
from sebenza_ops.systems.database_server import lsn_text
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, kept_sessions, raise_first_error

PRIMARY_AGAIN_SECONDS = 60


@kept_sessions()
def plan_failback(run: ChangeRun, release_id: str) -> DisasterPlan:
    """Find out whether the primary site can take over again, and from whom. Changes nothing but the ledger.

    Raises DisasterRefusedError with everything that is not right.
    """
    known = planned_before(run)
    if known is not None:
        run.note(f"this run has chosen already: back to {known.to_site}, {known.database.new}")
        return known
    environment, declared_at = run.environment, time.time()
    secondary = environment.secondary_site
    if secondary is None:
        raise DisasterRefusedError(f"nothing was changed: {environment.name} has no secondary site in the inventory")
    from_site, to_site = secondary.name, environment.primary_site.name
    found = databases(environment, from_site, to_site)
    shown = "; ".join(f"{name} is {describe(state)}" for name, state in found.states.items())
    states = server_states(found.states)
    serving = [name for name in found.old_hosts if name in states and states[name].is_primary]
    reachable = [name for name in found.new_hosts if name in states]
    problems = [str(state) for state in found.endpoints.values() if isinstance(state, OutsideSystemError)]
    if len(serving) != 1:
        problems.append(f"{from_site} has no primary to go back from ({shown})")
    if not reachable:
        problems.append(f"no database host of {to_site} can be reached")
    components = look(environment)
    lost = [
        each.words
        for each in components
        if each.component.site == to_site and each.component.what == "SSH" and each.verdict is not Verdict.UP
    ]
    problems += [f"{to_site}: {words}" for words in lost]
    if problems:
        run.record([_gate("failback", "fail", "; ".join(problems))])
        raise DisasterRefusedError(f"nothing was changed, {to_site} can't take over: {'; '.join(problems)}")
    old, new = states[serving[0]], states[reachable[0]]
    release, basis = (release_id, "named by who has started it") if release_id else choose_release(run, from_site)
    plan = DisasterPlan(
        environment=environment.name,
        kind=DisasterType.FAILOVER,
        from_site=from_site,
        to_site=to_site,
        database=DatabaseTarget(
            old=old.host,
            old_hosts=found.old_hosts,
            new=new.host,
            system_identifier=old.system_identifier,
            timeline=old.timeline,
            lsn=old.lsn,
            old_words=old.words,
            new_words=new.words,
        ),
        loss=Loss(size_bytes=0, basis="it has everything before it takes over"),
        site=judge_site(from_site, components),
        components=tuple(components),
        recommendation=Recommendation(kind=DisasterType.FAILOVER, why=(f"{to_site} answers again.",)),
        release_id=release,
        release_basis=basis,
        warnings=_warnings(found, reachable),
        declared_at=declared_at,
        last_good_at=declared_at,
        last_good_basis="it is planned",
    )
    run.record([_gate("failback", "pass", f"every host of {to_site} answers; {old.host} is the primary")])
    run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, plan=plan.model_dump(mode="json"))
    run.note(f"planned: back to {to_site}, {new.host} in place of {old.host}")
    return plan


def failback_text(plan: DisasterPlan, reason: str, requested_by: str) -> str:
    """Everything that is needed to decide, in Markdown."""
    target = plan.database
    parts = [
        f"**{plan.environment}** goes back from {plan.from_site} to **{plan.to_site}**. Nothing is lost: "
        f"{target.new} takes over when it has everything that {target.old} ever had.",
        f"- {target.old}: {target.old_words}\n- {target.new}: {target.new_words}",
        f"First {target.new} is made to follow {target.old}; what it alone has since the disaster is kept beside it. "
        "That may take hours, and users do not notice. Then writes stop, from when the database moves until DNS is "
        f"answered anew: the seconds of the move, and for who has just asked, the records' TTL. {target.old} follows "
        "afterwards.",
        f"The application will run {plan.release_id} ({plan.release_basis}).",
    ]
    if plan.warnings:
        parts += ["### Warnings", "\n".join(f"- {line}" for line in plan.warnings)]
    parts.append(f"Requested by {requested_by}: {' '.join(reason.split())}")
    return "\n\n".join(parts)


def _warnings(found: Databases, reachable: list[str]) -> tuple[str, ...]:
    states = server_states(found.states)
    warnings = [
        f"{name} TAKES WRITES TOO: it will be stopped, and what it alone has is kept beside it"
        for name in reachable
        if states[name].is_primary
    ]
    silent = [name for name in found.new_hosts if name not in reachable]
    warnings += [f"{name} can't be reached, and stays without replication until a `rejoin`" for name in silent]
    return tuple(warnings)


def resynchronize(run: ChangeRun, plan: DisasterPlan, approved_by: str) -> str:
    """Have the primary site's server follow the serving one: by itself, rewound, or copied anew. Returns how.

    Raises DisasterRefusedError when it can't be made to; the other site serves on.
    """
    if _is_back(run, plan):
        return f"{plan.database.new} is the primary already"
    try:
        return rejoin(run, _rejoining(plan, plan.database.new, plan.database.old), approved_by)
    except RejoinFailedError as error:
        raise DisasterRefusedError(f"{error}. {plan.from_site} serves as before") from error


def _rejoining(plan: DisasterPlan, old: str, new: str) -> SwitchPlan:
    return SwitchPlan(
        environment=plan.environment,
        kind=Kind.REJOIN,
        sites=(plan.from_site, plan.to_site),
        endpoint_site=plan.to_site,
        old=old,
        new=new,
        system_identifier=plan.database.system_identifier,
        timeline=plan.database.timeline,
        lsn=plan.database.lsn,
        loss=Loss(basis="what it has alone is kept beside it"),
        old_words="",
        new_words="",
    )


def _is_back(run: ChangeRun, plan: DisasterPlan) -> bool:
    state = Pair(run.environment, (plan.from_site, plan.to_site)).state_of(plan.database.new)
    return state.is_primary and state.timeline > plan.database.timeline


@kept_sessions()
def move_back(run: ChangeRun, plan: DisasterPlan) -> str:
    """Move the primary to the primary site, when its server has everything. Returns a summary.

    Raises:
        DisasterRefusedError: It is not safe, or did not come to a promotion; the other site serves again.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: After the promotion: a retry goes on.
    """
    pair, target = Pair(run.environment, (plan.from_site, plan.to_site)), plan.database
    if not _is_back(run, plan):
        save_progress(run, moving=True)
        try:
            ended = _stop_serving(run, pair, plan)
            replayed = _promote(run, pair, plan, ended)
        except FencedOffError:
            raise
        except (OutsideSystemError, DisasterRefusedError) as error:
            if _is_back(run, plan):
                raise
            _take_back(run, pair, plan, str(error))
            save_progress(run, moving=False)
            raise DisasterRefusedError(
                f"{error}. {target.old} is the primary again, {plan.from_site} serves, nothing is lost"
            ) from error
        detail = f"{target.old} has ended at {lsn_text(ended)}, and {target.new} had replayed up to {replayed}"
        run.record([_gate("same_position", "pass", detail)])
        run.note(f"{target.new} is the primary; {detail}", "success", mark="switch")
    _open_primary_site(run, plan)
    save_progress(run, promoted=True, moving=False, lost_seconds=0.0, lost_bytes=0)
    return f"{target.new} is the primary"


def _stop_serving(run: ChangeRun, pair: Pair, plan: DisasterPlan) -> int:
    """Hold clients, stop the serving server for good. Returns the position at which it has ended."""
    target, fence, policy = plan.database, run.fence, pair.policy
    states = pair.states()
    raise_first_error({name: states[name] for name in (target.old, target.new)})
    known = server_states(states)
    old, new = known[target.old], known[target.new]
    if old.is_primary:
        lag = max(0, old.lsn - new.lsn)
        if not follows(new, old) or lag > policy.maximum_lag_bytes:
            raise DisasterRefusedError(
                f"{target.new} does not follow {target.old} closely: {new.words}, {lag} bytes behind {old.words}"
            )
        pair.on_server(target.old, lambda server: server.checkpoint(fence))
        source, login = _source(run, plan), pair.replication_login()
        # From now on it starts as a replica of whoever is the primary at the primary site. Without a slot there: a site
        # that is away must not fill the primary's disk.
        pair.on_server(target.old, lambda server: server.demote(fence, source, login, has_slot=False))
        _pause(run, plan, policy.pause_limit_seconds)
        stopped = pair.on_server(
            target.old,
            lambda server: server.stop(fence, policy.drain_timeout_milliseconds, policy.stop_timeout_seconds),
        )
        if not stopped.has_stopped:
            raise DisasterRefusedError(f"{target.old} did not stop within {policy.stop_timeout_seconds} s")
        if stopped.last_record is not None:
            return stopped.last_record + 1
    else:
        _pause(run, plan, policy.pause_limit_seconds)
    return _await_equal(pair, plan)


def _source(run: ChangeRun, plan: DisasterPlan) -> str:
    """Where the other site's standby streams from: the endpoint, so that it follows whoever is the primary."""
    database = run.environment.at_site(plan.to_site).database
    if database.endpoint_port == database.port:
        return database.endpoint_host
    return run.environment.host(plan.database.new).address


def _await_equal(pair: Pair, plan: DisasterPlan) -> int:
    """The position from which on the new one has everything. Raises DisasterRefusedError, OutsideSystemError."""
    target, seconds = plan.database, pair.policy.stop_timeout_seconds
    give_up_at = time.monotonic() + seconds
    while True:
        states = pair.states()
        new = states[target.new]
        if isinstance(new, OutsideSystemError):
            raise new
        reached = position_reached(states[target.old], new)
        if reached is not None:
            return reached
        if time.monotonic() > give_up_at:
            raise DisasterRefusedError(f"{target.new} was not seen to have all of {target.old} within {seconds} s")
        time.sleep(POLL_SECONDS)


def _promote(run: ChangeRun, pair: Pair, plan: DisasterPlan, ended: int) -> str:
    target, fence, seconds = plan.database, run.fence, pair.policy.promote_timeout_seconds
    return pair.on_server(
        target.new,
        lambda server: server.promote(fence, target.system_identifier, target.timeline, ended, "", seconds),
    ).replayed


def _take_back(run: ChangeRun, pair: Pair, plan: DisasterPlan, why: str) -> None:
    """Make the serving server the primary again, and let clients go on. Raises what keeps it from that."""
    target, fence = plan.database, run.fence
    run.note(f"taken back: {why}", "error")
    if not pair.state_of(target.old).is_primary:
        pair.on_services(target.old, lambda services: services.stop(Service.POSTGRESQL, fence))
        pair.on_server(target.old, lambda server: server.undemote(fence))
        pair.start_service(target.old, fence)
        pair.await_state(target.old, lambda state: state.is_primary, "it is the primary again", PRIMARY_AGAIN_SECONDS)
    else:
        pair.on_server(target.old, lambda server: server.undemote(fence))
    _pause(run, plan, 0)


@kept_sessions()
def settle(run: ChangeRun, plan: DisasterPlan) -> str:
    """Take back a move that was given up before its promotion: the other site serves again.

    Returns what is amiss afterwards; empty when nothing is.
    """
    pair, target = Pair(run.environment, (plan.from_site, plan.to_site)), plan.database
    try:
        pair.fence_off(run.fence, target.old, target.new)
        if _is_back(run, plan):
            return f"{target.new} is the primary already: clear this run, it goes on"
        _take_back(run, pair, plan, "the run ended before the new primary was promoted")
    except FencedOffError as error:
        return f"nothing was taken back, a later change holds the environment: {error}"
    except OutsideSystemError as error:
        return f"taking it back failed: {error}. NO SERVER MAY TAKE WRITES: mend what it says and clear this run"
    save_progress(run, moving=False)
    return ""


def _pause(run: ChangeRun, plan: DisasterPlan, seconds: int) -> None:
    hosts = run.environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=plan.from_site)

    def pause(placed: Environment, session: HostSession) -> None:
        DatabaseEndpoint(placed, session).pause(run.fence, seconds)

    raise_first_error(dict(on_sites(run.environment, hosts, pause)))


def _open_primary_site(run: ChangeRun, plan: DisasterPlan) -> None:
    """Let the primary site's endpoint lead to the new primary, and none of the other site's to anybody."""
    target, fence = plan.database, run.fence

    def lead(placed: Environment, session: HostSession) -> None:
        endpoint = DatabaseEndpoint(placed, session)
        if target.new in endpoint.state().servers:
            endpoint.give_back(fence, target.new, is_primary=True)
        endpoint.pause(fence, 0)

    hosts = run.environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=plan.to_site)
    hosts += run.environment.hosts_with_role(Role.DATABASE_ENDPOINT, site=plan.from_site)
    raise_first_error(dict(on_sites(run.environment, hosts, lead)))


def restore_replication(run: ChangeRun, plan: DisasterPlan, approved_by: str) -> str:
    """Have everybody else follow the primary again: the other site's standby, and the primary site's replica.

    Raises DisasterRefusedError for those that do not; the primary site serves all the same.
    """
    pair, target = Pair(run.environment, (plan.from_site, plan.to_site)), plan.database
    failed, done = [], []
    try:
        if pair.state_of(target.old).running == "no":
            pair.start_service(target.old, run.fence)
        pair.await_state(target.old, lambda state: state.is_streaming, "it follows the primary site", 60)
        # Of the time when it was the primary: a replica that keeps one keeps WAL for ever.
        pair.on_server(target.old, lambda server: server.drop_slot(run.fence, target.new))
        done.append(target.old)
    except FencedOffError:
        raise
    except OutsideSystemError as error:
        failed.append(str(error))
    replicas = run.environment.hosts_with_role(Role.DATABASE, site=plan.to_site)
    for host in (each for each in replicas if each.name != target.new):
        try:
            rejoin(run, _rejoining(plan, host.name, target.new), approved_by)
            done.append(host.name)
        except FencedOffError:
            raise
        except (RejoinFailedError, OutsideSystemError) as error:
            failed.append(str(error))
    if failed:
        raise DisasterRefusedError(f"{plan.to_site} serves, without: {'; '.join(failed)}. Mend it, and clear this task")
    detail = f"{', '.join(done)} follow {target.new}"
    run.record([_gate("replication", "pass", detail)])
    run.note(detail, "success")
    return detail


def _gate(name: str, verdict: str, detail: str) -> GateFact:
    return GateFact.model_validate({"name": name, "verdict": verdict, "detail": detail, "at": utc_now()})
