"""The beginning of a disaster recovery: its lease, the assessment, its plan, and what people are shown."""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRefusedError, ChangeRun, holder_word
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.ledger import TOKEN_GAP
from sebenza_ops.recovery.disaster_application import choose_release
from sebenza_ops.recovery.disaster_assess import Databases, databases, look
from sebenza_ops.recovery.disaster_choice import Choice, choose
from sebenza_ops.recovery.disaster_plan import DisasterPlan, DisasterRefusedError
from sebenza_ops.recovery.disaster_record import planned_before
from sebenza_ops.recovery.disaster_rules import (
    DisasterType,
    Recommendation,
    judge_site,
    lost_words,
    up_by_site,
)
from sebenza_ops.recovery.sites import hosts_of_all_sites, on_sites
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, parse_seen_token
from sebenza_ops.systems.ssh import HostSession, kept_sessions

_TOKEN_ROLES = frozenset({Role.LOAD_BALANCER, Role.APPLICATION, Role.DATABASE_ENDPOINT, Role.DATABASE})


def take_lease(run: ChangeRun, purpose: str, reason: str, ttl_seconds: float, *, take_over: bool = False) -> None:
    """Take the lease from whoever holds it, and have every host of both sites refuse what that one still does.

    Another disaster recovery that works or waits for its answer is taken from only with `take_over`.

    Raises ChangeRefusedError when a later run has changed the environment, or another recovery is under way.
    """
    environment = run.environment
    other = other_recovery(run)
    if other is not None and not take_over:
        raise ChangeRefusedError(
            f"{other}. Two at once would undo each other's work: follow that one, answer its question, or end it. If "
            "nobody can, start again with `take_over`: then it is fenced off. Nothing was changed."
        )
    seen = seen_token(run)
    former = run.ledger.leases.current(environment.name)
    lease = run.take_over(purpose, reason, ttl_seconds, seen)
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    raise_tokens(run)
    if former is not None and not former.holder.is_run(run.holder):
        run.note(f"{former.holder} was fenced off: it held the lease for {former.purpose}", "warning")
    if run.is_journaled:
        run.note("the ledger is down: this run keeps a journal", "warning")


def other_recovery(run: ChangeRun) -> str | None:
    """Another disaster recovery of the environment that holds it or has it reserved, in words; None without one."""
    leases, name = run.ledger.leases, run.environment.name
    for held, since in (
        (leases.current(name), lambda found: found.acquired_at),
        (leases.current_reservation(name), lambda found: found.reserved_at),
    ):
        if held is None or held.holder.is_run(run.holder) or held.holder.dag_id != run.holder.dag_id:
            continue
        return (
            f"refused: another disaster recovery of {name} is under way, {held.holder}, started by "
            f"{held.holder.actor}, since {since(held):%H:%M:%S} UTC ({held.purpose}), at the latest until "
            f"{held.expires_at:%H:%M:%S} UTC"
        )
    return None


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
    choice = choose(run, found, components, kind, last_good_at, declared_at)
    advice, chosen, target = choice.advice, choice.kind, choice.target
    run.record([_assessment(advice)])
    if chosen is None or target is None:
        raise DisasterRefusedError(f"nothing was changed: {' '.join(advice.why)}")
    release, basis = (release_id, "named by who has started it") if release_id else choose_release(run, to_site)
    plan = DisasterPlan(
        environment=environment.name,
        kind=chosen,
        from_site=from_site,
        to_site=to_site,
        database=target,
        loss=choice.loss,
        site=judge_site(from_site, components),
        components=tuple(components),
        recommendation=advice,
        restore=choice.source,
        release_id=release,
        release_basis=basis,
        unfenceable=tuple(name for name in found.old_hosts if isinstance(found.states[name], OutsideSystemError)),
        warnings=_warnings(found, choice, release),
        declared_at=declared_at,
        last_good_at=choice.seen_at,
        last_good_basis=choice.seen_by,
    )
    run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, plan=plan.model_dump(mode="json"))
    run.note(f"planned: {chosen} to {to_site}, {target.new} in place of {target.old}; would be lost: {plan.loss.words}")
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


def _assessment(advice: Recommendation) -> GateFact:
    verdict = "pass" if advice.kind is not None else "fail"
    return GateFact.model_validate(
        {"name": "assessment", "verdict": verdict, "detail": advice.words.replace("*", ""), "at": utc_now()}
    )


def _warnings(found: Databases, choice: Choice, release: str) -> tuple[str, ...]:
    warnings, target, source = [], choice.target, choice.source
    assert target is not None
    if choice.kind is not choice.advice.kind:
        what = choice.advice.kind or "no disaster recovery"
        warnings.append(f"{choice.kind} was asked for; recommended is {what}")
    old, new = found.states[target.old], found.states[target.new]
    if isinstance(old, ServerState) and old.is_primary:
        warnings.append(f"{target.old} answers and takes writes: it will be stopped")
    if isinstance(new, ServerState) and new.replay_paused and source is None:
        warnings.append(f"replay is paused on {target.new}; it goes on when it is promoted")
    if isinstance(new, ServerState) and new.is_primary and source is not None:
        warnings.append(
            f"{target.new} IS A PRIMARY NOW ({new.words}): what it alone has leaves the database, and is kept beside it"
        )
    if source is not None and choice.kind is DisasterType.FULL and not source.manifest:
        warnings.append(f"{source.label} has no manifest that the archived WAL reaches: nothing to compare it with")
    if source is not None and choice.kind is DisasterType.PARTIAL:
        later = source.loss(choice.seen_at or 0.0, choice.seen_by).words if choice.seen_at else "not known"
        warnings.append(f"a full recovery takes longer and lacks less: {later}")
    if not release:
        warnings.append("nobody knows which release ran: name one with `release_id`")
    return tuple(warnings)


def excluded_people(run: ChangeRun) -> dict[str, str]:
    """Who may not approve: the requester, where the policy says so."""
    policy = run.environment.policies.approvals
    return {run.holder.actor: "requester"} if policy is not None and policy.exclude_requester else {}
