"""Whether the archive can reach a target, from which set, and what it can reach otherwise. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sebenza_ops.recovery.point_target import Target, TargetKind, TargetRefusedError, moment_text
from sebenza_ops.systems.database_server import lsn_text, parse_lsn
from sebenza_ops.systems.pgbackrest import RepositorySet
from sebenza_ops.systems.wal_archive import (
    ArchivedWal,
    Branch,
    Chain,
    RestorePoint,
    TransactionEnd,
    WalEnd,
    follow,
    is_on,
    segment_number,
)

# pgBackRest keeps a set's end in whole seconds, cut off.
SET_END_MARGIN = timedelta(seconds=1)


@dataclass(frozen=True)
class Window:
    """What can be reached without a gap: from the end of its first set to where its WAL ends.

    Attributes:
        sets: Its sets, the oldest first.
        chain: The WAL from its oldest set on.
        end: The last record and commit of that WAL; None until it was read.
    """

    sets: tuple[RepositorySet, ...]
    chain: Chain
    end: WalEnd | None = None

    @property
    def words(self) -> str:
        """In words."""
        oldest = self.sets[0]
        until = "the end of its WAL"
        if self.end is not None and self.end.commit_at is not None:
            until = f"{moment_text(self.end.commit_at)} ({lsn_text(self.end.lsn)})"
        gap = f"; WAL segment {self.chain.missing} is missing" if self.chain.is_gap else ""
        return f"{moment_text(oldest.finished_at + SET_END_MARGIN)} ({oldest.lsn_stop}) to {until}{gap}"


def windows(
    sets: Sequence[RepositorySet], bad: Collection[str], archive: ArchivedWal, history: Sequence[Branch]
) -> tuple[Window, ...]:
    """What the archive can reach along a history, the oldest first.

    Args:
        sets: All sets in the repository, the oldest first.
        bad: Labels of sets that are known to be damaged; sets that are based on them are, too.
        archive: The WAL in the repository.
        history: The timelines to follow.
    """
    usable: list[RepositorySet] = []
    damaged = set(bad)
    for each in sets:
        if each.has_error or each.label in damaged or (each.based_on or "") in damaged:
            damaged.add(each.label)
        elif is_on(history, int(each.wal_start[:8], 16), parse_lsn(each.lsn_stop)):
            usable.append(each)
    found: list[Window] = []
    for each in usable:
        chain = follow(archive.segments, history, each.wal_start)
        if not chain.segments or segment_number(chain.segments[-1]) < segment_number(each.wal_stop):
            # Not even the WAL that makes it consistent is whole.
            continue
        if found and found[-1].chain.segments[-1] == chain.segments[-1]:
            found[-1] = Window((*found[-1].sets, each), found[-1].chain)
        else:
            found.append(Window((each,), chain))
    return tuple(found)


def reachable(found: Sequence[Window]) -> str:
    """All that can be reached, in words."""
    return "; and ".join(window.words for window in found) or "nothing: no sound set with its WAL is in the repository"


def set_for_time(target: Target, found: Sequence[Window], now: datetime) -> tuple[RepositorySet, Window]:
    """The newest set from which a moment can be reached, and its window. Raises TargetRefusedError.

    Args:
        target: The moment.
        found: What can be reached, each with its end.
        now: The database host's clock.
    """
    assert target.at is not None
    if target.at > now:
        raise TargetRefusedError(_refusal(target, f"is in the future: it is {moment_text(now)} there", found))
    before = [
        (each, window) for window in found for each in window.sets if each.finished_at + SET_END_MARGIN <= target.at
    ]
    if not before:
        raise TargetRefusedError(_refusal(target, "is before the end of the oldest set", found))
    chosen, window = before[-1]
    end = window.end.commit_at if window.end is not None else None
    # PostgreSQL knows that it has come to a moment by a later commit; without one the recovery fails.
    if end is None or target.at >= end:
        raise TargetRefusedError(_refusal(target, f"can't be reached from {chosen.label}: {_end_of(window)}", found))
    return chosen, window


def set_for_position(
    target: Target, lsn: int, found: Sequence[Window], what: str = "is"
) -> tuple[RepositorySet, Window]:
    """The newest set from which a position can be reached, and its window. Raises TargetRefusedError."""
    before = [(each, window) for window in found for each in window.sets if parse_lsn(each.lsn_stop) <= lsn]
    if not before:
        raise TargetRefusedError(_refusal(target, f"{what} before the end of the oldest set", found))
    chosen, window = before[-1]
    if window.end is None or lsn > window.end.lsn:
        raise TargetRefusedError(_refusal(target, f"can't be reached from {chosen.label}: {_end_of(window)}", found))
    return chosen, window


def find_point(target: Target, points: Sequence[RestorePoint], found: Sequence[Window]) -> RestorePoint:
    """The restore point of a name. Raises TargetRefusedError when there is none, or more than one."""
    # What was read twice, because a segment was read again with the one before it, is one.
    known = {(point.name, point.lsn): point for point in points}
    named = [point for (name, _), point in sorted(known.items()) if name == target.text]
    if not named:
        names = ", ".join(sorted({point.name for point in points})) or "none"
        raise TargetRefusedError(_refusal(target, f"is not in the archived WAL; restore points there: {names}", found))
    if len(named) > 1:
        places = ", ".join(
            lsn_text(point.lsn) + (f" (after {moment_text(point.after)})" if point.after else "") for point in named
        )
        raise TargetRefusedError(
            _refusal(
                target, f"is ambiguous, there are {len(named)}: {places}. Give one of these positions (lsn)", found
            )
        )
    return named[0]


def find_transaction(target: Target, ends: Sequence[TransactionEnd], found: Sequence[Window]) -> TransactionEnd:
    """How a transaction has ended. Raises TargetRefusedError when that is not in the archive, or ambiguous."""
    known = {end.lsn: end for end in ends}
    if not known:
        raise TargetRefusedError(_refusal(target, "has not ended in the archived WAL", found))
    if len(known) > 1:
        places = ", ".join(f"{lsn_text(lsn)} ({moment_text(end.at)})" for lsn, end in sorted(known.items()))
        raise TargetRefusedError(
            _refusal(
                target, f"is ambiguous, its number was used {len(known)} times: {places}. Give a position (lsn)", found
            )
        )
    return next(iter(known.values()))


def _end_of(window: Window) -> str:
    return f"WAL segment {window.chain.missing} is missing" if window.chain.is_gap else "its archived WAL ends before"


def _place(point: RestorePoint) -> str:
    return lsn_text(point.lsn) + (f" (after {moment_text(point.after)})" if point.after else "")


def _refusal(target: Target, why: str, found: Sequence[Window]) -> str:
    words = target.words if target.kind is TargetKind.TIME else target.words.removeprefix("right before ")
    return f"{words} {why}. Nothing was started. Reachable: {reachable(found)}"
