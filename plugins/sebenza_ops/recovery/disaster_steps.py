"""The beginning of a disaster recovery: its lease, the assessment, its plan, and what people are shown."""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRefusedError, ChangeRun, holder_word
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.ledger import TOKEN_GAP
from sebenza_ops.recovery.disaster_application import choose_release
from sebenza_ops.recovery.disaster_assess import Databases, databases, estimate_loss, find_target, last_seen_well, look
from sebenza_ops.recovery.disaster_plan import DatabaseTarget, DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import planned_before
from sebenza_ops.recovery.disaster_rules import (
    ComponentVerdict,
    DisasterType,
    Findings,
    Recommendation,
    judge_site,
    lost_words,
    recommend,
    up_by_site,
    why_not_promotable,
)
from sebenza_ops.recovery.pair import endpoints_that_answer
from sebenza_ops.recovery.sites import hosts_of_all_sites, on_sites
from sebenza_ops.recovery.switch_plan import Loss, server_states
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, parse_seen_token
from sebenza_ops.systems.ssh import HostSession, kept_sessions

_TOKEN_ROLES = frozenset({Role.LOAD_BALANCER, Role.APPLICATION, Role.DATABASE_ENDPOINT, Role.DATABASE})


def take_lease(run: ChangeRun, purpose: str, reason: str, ttl_seconds: float) -> None:
    """Take the lease from whoever holds it, and have every host of both sites refuse what that one still does.

    Raises ChangeRefusedError when a later run has changed the environment.
    """
    environment = run.environment
    seen = seen_token(run)
    former = run.ledger.leases.current(environment.name)
    lease = run.take_over(purpose, reason, ttl_seconds, seen)
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    raise_tokens(run)
    if former is not None and not former.holder.is_run(run.holder):
        run.note(f"{former.holder} was fenced off: it held the lease for {former.purpose}", "warning")
    if run.is_journaled:
        run.note("the ledger is down: this run keeps a journal", "warning")


def seen_tokens(run: ChangeRun) -> list[SeenToken]:
    """What every host of both sites that answers has seen, the highest first."""
    environment = run.environment
    hosts = [host for host in hosts_of_all_sites(environment) if _TOKEN_ROLES & set(host.roles)]

    def read(placed: Environment, session: HostSession) -> SeenToken:
        state_dir = session.host.path(placed.application.state_dir)
        text = session.run_script("fence_read", [state_dir, placed.name], timeout_seconds=10).stdout
        return parse_seen_token(session.host.name, text)

    answers = on_sites(environment, hosts, read).values()
    found = [answer for answer in answers if isinstance(answer, SeenToken)]
    return sorted(found, key=lambda seen: seen.token, reverse=True)


def seen_token(run: ChangeRun) -> int:
    """The highest fencing token that a host of either site has seen; 0 when none tells."""
    return next((seen.token for seen in seen_tokens(run)), 0)


def hold_attempt(run: ChangeRun, purpose: str, ttl_seconds: float) -> None:
    """A fencing token for this attempt alone, which every host of both sites that answers hears of.

    With the ledger down the hosts of both sites say whether another run has changed anything since: those of the
    serving site alone may all be gone.

    Raises ChangeRefusedError when another run holds the environment, or has changed it.
    """
    current = run.ledger.leases.current(run.lease_name)
    if not run.is_journaled or (current is not None and current.holder.is_run(run.holder)):
        run.begin_attempt(purpose, ttl_seconds)
        return
    seen = next(iter(seen_tokens(run)), None)
    if seen is None:
        raise ChangeRefusedError("the ledger is down, and no host of either site tells its fencing token")
    if seen.holder != holder_word(run.holder):
        raise ChangeRefusedError(
            f"the ledger is down, and by the hosts {seen.holder} has changed {run.environment.name} since (fencing "
            f"token {seen.token}, {seen.since}). This run changes nothing more. Start a new run."
        )
    run.acquire(purpose, ttl_seconds, seen.token + TOKEN_GAP)


def raise_tokens(run: ChangeRun) -> None:
    """Have every host of both sites that answers refuse lower tokens. Raises FencedOffError."""
    environment, fence = run.environment, run.fence
    hosts = [host for host in hosts_of_all_sites(environment) if _TOKEN_ROLES & set(host.roles)]

    def tell(placed: Environment, session: HostSession) -> None:
        state_dir = session.host.path(placed.application.state_dir)
        session.run_script("fence_raise", fence.arguments(state_dir), timeout_seconds=30)

    def tell_owner(placed: Environment, session: HostSession) -> None:
        state_dir = session.host.path(placed.database.state_dir)
        session.run_script("fence_raise", fence.arguments(state_dir), timeout_seconds=30)

    servers = [host for host in hosts if Role.DATABASE in host.roles]
    told = on_sites(environment, hosts, tell)
    told |= {
        f"{name} (as the owner of its cluster)": answer
        for name, answer in on_sites(environment, servers, tell_owner, as_owner=True).items()
    }
    silent = []
    for name, answer in told.items():
        if isinstance(answer, FencedOffError):
            raise answer
        if isinstance(answer, OutsideSystemError):
            silent.append(name)
    if silent:
        run.note(f"could not be told the fencing token: {', '.join(silent)}", "warning")


@kept_sessions()
def plan_recovery(
    run: ChangeRun, kind: DisasterType | None, release_id: str, last_good_at: float | None
) -> DisasterPlan:
    """Look at both sites from everywhere, and plan. Changes nothing but the ledger.

    Args:
        run: The run.
        kind: What is asked for; None: what is recommended.
        release_id: What the application is to run; empty: what is known to be good.
        last_good_at: When the service was last seen well by somebody else, in seconds since the epoch.

    Raises:
        DisasterRefusedError: Nothing is recommended, or what is asked for is not possible.
    """
    known = planned_before(run)
    if known is not None:
        run.note(f"this run has chosen already: {known.kind} to {known.to_site}")
        return known
    environment, declared_at = run.environment, time.time()
    from_site, to_site = sites_of(environment)
    components = look(environment)
    run.note(f"seen from every place: {'; '.join(f'{s}: {c}' for s, c in up_by_site(components).items())}")
    for line in lost_words(components).splitlines():
        run.note(line.removeprefix("- "), "warning")
    found = databases(environment, from_site, to_site)
    target = find_target(found)
    loss = estimate_loss(found, target)
    seen_at, seen_by = (last_good_at, "stated by who has started it") if last_good_at else last_seen_well(found, target)
    advice = recommend(_findings(environment, found, target, loss, components, seen_at))
    run.record([_assessment(advice)])
    chosen = kind or advice.kind
    if chosen is None:
        raise DisasterRefusedError(f"nothing was changed: {' '.join(advice.why)}")
    release, basis = (release_id, "named by who has started it") if release_id else choose_release(run, to_site)
    plan = DisasterPlan(
        environment=environment.name,
        kind=chosen,
        from_site=from_site,
        to_site=to_site,
        database=target,
        loss=loss,
        site=judge_site(from_site, components),
        components=tuple(components),
        recommendation=advice,
        release_id=release,
        release_basis=basis,
        unfenceable=tuple(name for name in found.old_hosts if isinstance(found.states[name], OutsideSystemError)),
        warnings=_warnings(found, target, advice, chosen, release),
        declared_at=declared_at,
        last_good_at=seen_at,
        last_good_basis=seen_by,
    )
    run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, plan=plan.model_dump(mode="json"))
    run.note(f"planned: {chosen} to {to_site}, {target.new} in place of {target.old}; would be lost: {loss.words}")
    return plan


def sites_of(environment: Environment) -> tuple[str, str]:
    """The site that serves by the inventory, and the one that takes over. Raises DisasterRefusedError."""
    secondary = environment.secondary_site
    if secondary is None:
        raise DisasterRefusedError(f"nothing was changed: {environment.name} has no secondary site in the inventory")
    if environment.active_site == secondary.name:
        raise DisasterRefusedError(
            f"nothing was changed: {environment.name} is served from {secondary.name} already (active_site)"
        )
    return environment.active_site, secondary.name


def _findings(
    environment: Environment,
    found: Databases,
    target: DatabaseTarget,
    loss: Loss,
    components: list[ComponentVerdict],
    seen_at: float | None,
) -> Findings:
    known, objectives = server_states(found.states), environment.policies.objectives
    policy = environment.policies.disaster_recovery
    old = [known[name] for name in found.old_hosts if name in known]
    new = known[target.new]
    lag = loss.seconds if loss.seconds is not None else 0.0 if loss.size_bytes == 0 else None
    if lag is None and seen_at is not None and target.last_kept_at is not None:
        lag = max(0.0, seen_at - target.last_kept_at)
    identifiers = {state.system_identifier for state in old}
    problems = (
        []
        if new.is_primary
        else why_not_promotable(
            system_identifier=new.system_identifier,
            expected_identifier=identifiers.pop() if len(identifiers) == 1 else "",
            lag_seconds=lag,
            lag_limit_seconds=(policy.maximum_lag_seconds if policy else None) or objectives.rpo_seconds,
        )
    )
    by_endpoint = {
        name for state in endpoints_that_answer(found.endpoints) for name in state.leads_to if name in found.old_hosts
    }
    return Findings(
        site=judge_site(found.from_site, components),
        primary_answers=any(state.is_primary for state in old) or bool(by_endpoint),
        replica_answers=any(state.is_standby for state in old),
        standby_problem="; ".join(problems),
        failover_loss=loss,
        repository_problem="this version restores no whole site from it by itself (restore_database does)",
        critical_tables=policy.critical_tables if policy else (),
        rto_seconds=objectives.rto_seconds,
    )


def _assessment(advice: Recommendation) -> GateFact:
    verdict = "pass" if advice.kind is not None else "fail"
    return GateFact.model_validate(
        {"name": "assessment", "verdict": verdict, "detail": advice.words.replace("*", ""), "at": utc_now()}
    )


def _warnings(
    found: Databases, target: DatabaseTarget, advice: Recommendation, chosen: DisasterType, release: str
) -> tuple[str, ...]:
    warnings = []
    if chosen is not advice.kind:
        what = advice.kind or "no disaster recovery"
        warnings.append(f"{chosen} was asked for; recommended is {what}")
    old, new = found.states[target.old], found.states[target.new]
    if isinstance(old, ServerState) and old.is_primary:
        warnings.append(f"{target.old} answers and takes writes: it will be stopped")
    if isinstance(new, ServerState) and new.replay_paused:
        warnings.append(f"replay is paused on {target.new}; it goes on when it is promoted")
    if not release:
        warnings.append("nobody knows which release ran: name one with `release_id`")
    return tuple(warnings)


def excluded_people(run: ChangeRun) -> dict[str, str]:
    """Who may not approve: the requester, where the policy says so."""
    policy = run.environment.policies.approvals
    return {run.holder.actor: "requester"} if policy is not None and policy.exclude_requester else {}
