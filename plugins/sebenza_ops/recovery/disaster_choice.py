"""Which recovery it is to be: what the standby and the repository could give, what is recommended, what is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.recovery.disaster_assess import (
    Databases,
    estimate_loss,
    find_target,
    last_seen,
    last_seen_well,
    restore_host,
    restore_target,
)
from sebenza_ops.recovery.disaster_plan import DatabaseTarget, DisasterRefusedError
from sebenza_ops.recovery.disaster_repository import RestoreSource, find_source
from sebenza_ops.recovery.disaster_rules import (
    ComponentVerdict,
    DisasterType,
    Findings,
    Recommendation,
    judge_site,
    recommend,
    why_not_promotable,
)
from sebenza_ops.recovery.pair import endpoints_that_answer
from sebenza_ops.recovery.switch_plan import Loss, server_states
from sebenza_ops.systems.errors import OutsideSystemError

UNCHANGED = "nothing was changed: "
RESTORES = frozenset({DisasterType.FULL, DisasterType.PARTIAL})


@dataclass(frozen=True)
class Choice:
    """What is done, and what it was chosen from.

    Attributes:
        kind: What is done; None when nothing is recommended and nothing was asked for.
        target: The server that takes over.
        loss: What would be lost by it.
        seen_at: When the service was last seen well; None when nobody saw it.
        source: What is restored; None for a failover.
    """

    kind: DisasterType | None
    advice: Recommendation
    target: DatabaseTarget | None
    loss: Loss
    seen_at: float | None
    seen_by: str
    source: RestoreSource | None = None


@dataclass
class _Standby:
    target: DatabaseTarget | None
    problem: str
    loss: Loss
    seen_at: float | None
    seen_by: str


def choose(
    run: ChangeRun,
    found: Databases,
    components: Sequence[ComponentVerdict],
    asked: DisasterType | None,
    last_good_at: float | None,
    declared_at: float,
) -> Choice:
    """Weigh what there is. The repository is read only when the standby can't take over, or a restore was asked for.

    Raises DisasterRefusedError when what was asked for is not possible.
    """
    standby = _standby(found, last_good_at)
    source, problem = None, "it was not looked at"
    if standby.problem or asked in RESTORES:
        source, problem = _source(run, found)
    policy = run.environment.policies.disaster_recovery
    critical = policy.critical_tables if policy is not None else ()
    until, how = _until(found, last_good_at, declared_at)
    advice = recommend(
        Findings(
            site=judge_site(found.from_site, components),
            primary_answers=_primary_answers(found),
            replica_answers=any(
                state.is_standby for name, state in server_states(found.states).items() if name in found.old_hosts
            ),
            standby_problem=standby.problem,
            failover_loss=standby.loss,
            repository_problem=problem,
            repository_loss=source.loss(until, how) if source is not None else Loss(),
            partial_problem=_partial_problem(source, critical),
            partial_loss=source.partial_loss(until, how) if source is not None else Loss(),
            restore_seconds=source.restore_seconds if source is not None else None,
            critical_tables=critical,
            rto_seconds=run.environment.policies.objectives.rto_seconds,
        )
    )
    kind = asked or advice.kind
    if kind is None:
        return Choice(None, advice, standby.target, standby.loss, standby.seen_at, standby.seen_by)
    if kind is DisasterType.FAILOVER:
        if standby.target is None:
            raise DisasterRefusedError(f"{UNCHANGED}{standby.problem}. {advice.words.replace('*', '')}")
        return Choice(kind, advice, standby.target, standby.loss, standby.seen_at, standby.seen_by)
    why_not = problem or (_partial_problem(source, critical) if kind is DisasterType.PARTIAL else "")
    if source is None or why_not:
        raise DisasterRefusedError(f"{UNCHANGED}a {kind} recovery is not possible: {why_not}")
    seen_at, seen_by = (last_good_at, STATED) if last_good_at else last_seen(found, restore_target(found, source).old)
    if seen_at is None and source.last_commit_at is not None:
        seen_at, seen_by = source.last_commit_at, "the last commit in the site's copy of the archive"
    loss = source.loss(until, how) if kind is DisasterType.FULL else source.partial_loss(until, how)
    target = restore_target(found, source)
    if kind is DisasterType.PARTIAL:
        target = target.model_copy(update={"last_kept_at": source.dump_at})
    return Choice(kind, advice, target, loss, seen_at, seen_by, source)


STATED = "stated by who has started it"


def _standby(found: Databases, last_good_at: float | None) -> _Standby:
    try:
        target = find_target(found)
    except DisasterRefusedError as error:
        return _Standby(None, str(error).removeprefix(UNCHANGED), Loss(), last_good_at, STATED)
    loss = estimate_loss(found, target)
    seen_at, seen_by = (last_good_at, STATED) if last_good_at else last_seen_well(found, target)
    problems = _problems(found.pair.environment, found, target, loss, seen_at)
    return _Standby(target, "; ".join(problems), loss, seen_at, seen_by)


def _problems(
    environment: Environment, found: Databases, target: DatabaseTarget, loss: Loss, seen_at: float | None
) -> list[str]:
    known, policy = server_states(found.states), environment.policies.disaster_recovery
    new = known[target.new]
    if new.is_primary:
        return []
    lag = loss.seconds if loss.seconds is not None else 0.0 if loss.size_bytes == 0 else None
    if lag is None and seen_at is not None and target.last_kept_at is not None:
        lag = max(0.0, seen_at - target.last_kept_at)
    identifiers = {known[name].system_identifier for name in found.old_hosts if name in known}
    return why_not_promotable(
        system_identifier=new.system_identifier,
        expected_identifier=identifiers.pop() if len(identifiers) == 1 else "",
        lag_seconds=lag,
        lag_limit_seconds=(policy.maximum_lag_seconds if policy else None)
        or environment.policies.objectives.rpo_seconds,
    )


def _source(run: ChangeRun, found: Databases) -> tuple[RestoreSource | None, str]:
    """What the site's copy of the repository gives, or why it gives nothing."""
    try:
        source = find_source(run, found.to_site, restore_host(found))
    except OutsideSystemError as error:
        return None, str(error)
    run.note(
        f"the copy of the repository at {found.to_site}: set {source.label}, {source.end_words} (timeline "
        f"{source.timeline}); newest dump: {source.dump or 'none'}",
        host=source.host,
    )
    return source, ""


def _partial_problem(source: RestoreSource | None, critical: Sequence[str]) -> str:
    if not critical:
        return "policies.disaster_recovery.critical_tables names none"
    if source is None or not source.dump:
        return "the site's copy of the storage has no dump whose set is there, too"
    return ""


def _primary_answers(found: Databases) -> bool:
    known = server_states(found.states)
    by_endpoint = {
        name for state in endpoints_that_answer(found.endpoints) for name in state.leads_to if name in found.old_hosts
    }
    return any(known[name].is_primary for name in found.old_hosts if name in known) or bool(by_endpoint)


def _until(found: Databases, last_good_at: float | None, declared_at: float) -> tuple[float, str]:
    """Up to when commits may have been made that nobody has, and how that is known."""
    if last_good_at:
        return last_good_at, STATED
    seen = [last_seen(found, name) for name in found.old_hosts]
    moments = [(at, how) for at, how in seen if at is not None]
    return max(moments) if moments else (declared_at, "now")
