"""The recovery point, asked now: kept in the ledger, and told when it is worse than the objective."""

from __future__ import annotations

from sebenza_ops.backup.rpo import RecoveryPoint, recovery_point
from sebenza_ops.backup.steps import host_states, on_host
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.wording import duration, moment
from sebenza_ops.ledger import KnownPoint
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.pgbackrest import RepositoryInfo

# What is told of it is told once a run.
RECOVERY_POINT = "recovery-point"


def ask(environment: Environment, repository: RepositoryInfo | None = None) -> RecoveryPoint:
    """The recovery point by the primary and by the repository; by the primary alone while the repository is silent.

    Args:
        environment: The environment.
        repository: What is in its repository, where that was asked a moment ago; it is asked otherwise.

    Raises OutsideSystemError when no primary can be asked.
    """
    states, unreachable = host_states(environment)
    primaries = [state for state in states.values() if not state.in_recovery]
    if len(primaries) != 1:
        found = ", ".join(state.host for state in primaries) or "none"
        raise OutsideSystemError("; ".join([f"primaries that answer: {found}", *unreachable.values()]))
    primary, archive = primaries[0].host, primaries[0].archive
    if repository is not None:
        return recovery_point(archive, repository.archive_max)
    try:
        with on_host(environment, primary) as (pgbackrest, _):
            return recovery_point(archive, pgbackrest.info().archive_max)
    except OutsideSystemError as error:
        own = recovery_point(archive, archive.archived_wal[:24] if archive.archived_wal else None)
        return RecoveryPoint(own.seconds, f"{own.reason}; by {primary} alone, the repository can't be read: {error}")


def look(run: ChangeRun, repository: RepositoryInfo | None = None) -> KnownPoint:
    """Ask, and keep the answer. While nobody answers, what was archived by the last one is all that is counted on."""
    environment, points = run.environment, run.ledger.recovery_points
    objective = environment.policies.objectives.rpo_seconds
    try:
        point = ask(environment, repository)
    except OutsideSystemError as error:
        return points.carry_on(environment.name, str(error), objective, run.holder)
    return points.record(environment.name, point.seconds, point.reason, objective, run.holder)


def words_of(point: KnownPoint) -> str:
    """A recovery point in words."""
    seconds = point.seconds(point.checked_at)
    shown = "can't be told" if seconds is None else f"is {seconds:.0f} s"
    if point.missed_since is None:
        return f"the recovery point {shown}, the objective {point.objective_seconds} s: {point.reason}"
    since = f", missed since {moment(point.missed_since)}" if point.missed_since < point.checked_at else ""
    return f"the recovery point {shown}, the objective is {point.objective_seconds} s{since}: {point.reason}"


def tell(run: ChangeRun, point: KnownPoint) -> str:
    """Tell people that the objective is missed, or met again, when they are to hear of it. Returns what is amiss."""
    words = words_of(point)
    if point.missed_since is None:
        if point.is_over:
            run.tell_warning(f"over: {words}", about=RECOVERY_POINT)
            run.ledger.recovery_points.mark_told(run.environment.name)
        run.note(words, "success")
        return ""
    if point.is_to_be_told:
        run.tell_warning(words, about=RECOVERY_POINT)
        run.ledger.recovery_points.mark_told(run.environment.name)
    else:
        told = duration((point.checked_at - point.told_at).total_seconds()) if point.told_at else ""
        run.note(f"{words} (people were told {told} ago)", "warning")
    return words
