"""What a backup is to be: which type, read on which host, and whether there is room. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.environments.backup_policy import WEEKDAYS, BackupPolicy, RestoreTestPolicy
from sebenza_ops.systems.backup_host import DatabaseHostState
from sebenza_ops.systems.pgbackrest import RepositorySet

BackupType = Literal["full", "diff", "incr"]
Requested = Literal["auto", "full", "diff", "incr"]

# A week, and a day for a run that came late.
FULL_EVERY = timedelta(days=8)
# Ours: what a replica receives in seconds. One that is further behind would hold pgBackRest up, which waits for it.
MAXIMUM_REPLAY_LAG_BYTES = 256 * 1024**2


class BackupPlan(BaseModel):
    """What a run is going to do. `job` names its directories on the host; `primary` is who archives."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    job: str
    backup_type: BackupType
    reason: str
    host: str
    primary: str
    from_replica: bool
    warnings: tuple[str, ...] = ()

    def text(self) -> str:
        """The plan in words."""
        role = "replica" if self.from_replica else "primary"
        return f"{self.backup_type} backup of {self.environment} on {self.host} ({role}): {self.reason}"


def cron(policy: BackupPolicy) -> str:
    """The policy's schedule as cron has it, in UTC."""
    day = "*" if policy.frequency == "daily" else str((WEEKDAYS.index(policy.full_on) + 1) % 7)
    return f"{policy.start.minute} {policy.start.hour} * * {day}"


def weekly_cron(policy: RestoreTestPolicy) -> str:
    """The weekly restore test's schedule as cron has it, in UTC."""
    return f"{policy.start.minute} {policy.start.hour} * * {(WEEKDAYS.index(policy.weekly_on) + 1) % 7}"


def type_due(
    policy: BackupPolicy,
    sets: Sequence[RepositorySet],
    damaged: Collection[str],
    now: datetime,
    requested: Requested = "auto",
) -> tuple[BackupType, str]:
    """The type of the backup that is due, and why.

    Args:
        policy: The environment's policy.
        sets: What is in the repository, the oldest first.
        damaged: Labels that are known to be damaged: nothing may be based on them.
        now: The current moment.
        requested: What the run asks for; a set that has nothing to be based on becomes a full one.
    """
    usable = [each for each in sets if each.backup_type == "full" and each.label not in damaged and not each.has_error]
    if not usable:
        return "full", "there is no full backup that another one could be based on"
    newest = usable[-1]
    # pgBackRest bases a set on the newest full one, whatever is known of it here.
    newest_of_all = [each for each in sets if each.backup_type == "full"][-1]
    if newest_of_all.label != newest.label:
        return "full", f"the newest full backup, {newest_of_all.label}, is damaged"
    chained = [each for each in sets if each.finished_at > newest.finished_at]
    if requested != "auto":
        if requested == "incr" and any(each.label in damaged or each.has_error for each in chained):
            return "diff", "an incremental backup was asked for, and the last set is damaged"
        return requested, "asked for"
    if policy.frequency == "weekly":
        return "full", "the weekly backup"
    age = now - newest.finished_at
    if WEEKDAYS[now.astimezone(UTC).weekday()] == policy.full_on and newest.finished_at.date() != now.date():
        return "full", f"it is {policy.full_on}"
    if age > FULL_EVERY:
        return "full", f"the newest full backup is {age.days} days old"
    if policy.between == "incr" and any(each.label in damaged or each.has_error for each in chained):
        return "diff", "the last set is damaged"
    return policy.between, f"based on {newest.label}"


def choose_host(
    policy: BackupPolicy, states: Mapping[str, DatabaseHostState], unreachable: Mapping[str, str]
) -> tuple[DatabaseHostState, DatabaseHostState, tuple[str, ...]]:
    """Where the backup is read, the primary, and what is worth telling.

    Raises BackupRefusedError when there is not exactly one primary.
    """
    primaries = [state for state in states.values() if not state.in_recovery]
    reasons = "; ".join(unreachable.values())
    if not primaries:
        raise BackupRefusedError(f"no primary answers, so nothing can be backed up. {reasons}".strip())
    if len(primaries) > 1:
        names = " and ".join(state.host for state in primaries)
        raise BackupRefusedError(
            f"{names} both take writes: two primaries. A backup of either could be of the wrong one; "
            "find out which one the application uses, stop the other, then back up"
        )
    primary = primaries[0]
    if policy.run_on == "primary":
        return primary, primary, ()
    replicas = [
        state
        for state in states.values()
        if state.in_recovery
        and state.is_streaming
        and state.system_identifier == primary.system_identifier
        and state.replay_lag_bytes <= MAXIMUM_REPLAY_LAG_BYTES
    ]
    if not replicas:
        seen = [
            f"{state.host} {'streams' if state.is_streaming else 'does not stream'}, {state.replay_lag_bytes} B behind"
            for state in states.values()
            if state.in_recovery
        ]
        why = "; ".join([*seen, *unreachable.values()]) or "there is none"
        return primary, primary, (f"no replica can be read, so the primary {primary.host} is ({why})",)
    return min(replicas, key=lambda state: state.replay_lag_bytes), primary, ()


def check_archiving(primary: DatabaseHostState) -> None:
    """Raises BackupRefusedError when the primary archives nothing: a backup without its WAL can't be restored."""
    if primary.archive.mode == "off":
        raise BackupRefusedError(
            f"{primary.host}: archive_mode is off, so no WAL reaches the repository and no backup could be restored. "
            "Set archive_mode and archive_command as docs/backup.md says, and restart PostgreSQL"
        )


def check_space(policy: BackupPolicy, state: DatabaseHostState) -> None:
    """Raises BackupRefusedError when the host has not the policy's space beside what a dump needs.

    Tables without their indexes, compressed, are rarely half of the database.
    """
    need = policy.minimum_free_bytes + (state.database_bytes // 2 if policy.logical_dump else 0)
    if state.free_bytes < need:
        raise BackupRefusedError(
            f"{state.host}: {state.free_bytes // 2**20} MiB free in {policy.work_dir}, {need // 2**20} MiB needed "
            f"(minimum_free_bytes, and half of the database's {state.database_bytes // 2**20} MiB for a dump): "
            "make room, or move work_dir"
        )
