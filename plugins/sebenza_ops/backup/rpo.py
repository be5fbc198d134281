"""How much would be lost if the primary were gone now. Pure rules."""

from __future__ import annotations

from dataclasses import dataclass

from sebenza_ops.systems.backup_host import ArchiveState


@dataclass(frozen=True)
class RecoveryPoint:
    """At most so many seconds of commits are not in the repository; None when that can't be told. `reason` says why."""

    seconds: float | None
    reason: str


def recovery_point(state: ArchiveState, repository_max: str | None) -> RecoveryPoint:
    """The recovery point now, as an upper bound.

    The age of the last archived segment alone would alarm on an idle database, which has nothing to archive. While
    nothing waits and nothing fails, what is not archived is in the segment that is being written, which
    archive_timeout closes.

    Args:
        state: The primary's own account.
        repository_max: The newest segment that is in the repository: what was archived must have arrived.
    """
    if state.mode == "off" or state.archived_wal is None or state.seconds_since_archived is None:
        return RecoveryPoint(None, "nothing was ever archived")
    # Both without their timelines: after a failover the newest archive is of the new one.
    if repository_max is None or repository_max[8:] < state.archived_wal[8:24]:
        return RecoveryPoint(
            None, f"{state.archived_wal} counts as archived, and the repository ends with {repository_max or 'nothing'}"
        )
    since = state.seconds_since_archived
    if state.waiting and state.oldest_waiting_seconds is not None:
        # The oldest that waits was begun at most one archive_timeout before it was finished.
        seconds = min(since, state.oldest_waiting_seconds + state.timeout_seconds) if state.timeout_seconds else since
        return RecoveryPoint(
            seconds, f"{state.waiting} WAL segments wait, the oldest for {state.oldest_waiting_seconds:.0f} s"
        )
    if state.is_failing:
        return RecoveryPoint(since, f"archiving fails since {since:.0f} s")
    if state.timeout_seconds == 0:
        return RecoveryPoint(since, "archive_timeout is 0: a segment is archived when it is full, whenever that is")
    return RecoveryPoint(min(since, state.timeout_seconds), f"nothing waits, {state.archived_wal} is archived")
