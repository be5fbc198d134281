"""When application backups are made, and which are kept. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta

from sebenza_ops.environments.backup_policy import WEEKDAYS
from sebenza_ops.environments.models import ApplicationBackupPolicy, BackupPolicy
from sebenza_ops.systems.host_archives import SET, ArchiveSet

# A directory without a set belongs to a run that is at work, or that came to no end.
ABANDONED_AFTER = timedelta(days=2)


def schedule_of(policy: ApplicationBackupPolicy, backup: BackupPolicy) -> str:
    """The cron line, in UTC, on the days of the database's backups."""
    # cron(5) counts days from Sunday, 0.
    weekday = str((WEEKDAYS.index(backup.full_on) + 1) % 7) if backup.frequency == "weekly" else "*"
    return f"{policy.start.minute} {policy.start.hour} * * {weekday}"


def superfluous_sets(
    sets: Iterable[ArchiveSet], kept_days: int, now: datetime, bad: Collection[str] = ()
) -> list[ArchiveSet]:
    """The sets that are older than the policy keeps; of each host the newest good one stays, however old it is.

    Args:
        sets: All sets of an environment.
        kept_days: So old a set may become. Policy: retention.backups_days.
        now: The current moment.
        bad: Labels of sets that are known to be damaged: none of them is the last good one.
    """
    by_host: dict[str, list[ArchiveSet]] = {}
    for each in sorted(sets, key=lambda each: each.made_at, reverse=True):
        by_host.setdefault(each.host, []).append(each)
    gone: list[ArchiveSet] = []
    for found in by_host.values():
        last_good = next((each for each in found if catalog_label(each) not in bad), None)
        limit = now - timedelta(days=kept_days)
        gone += [each for each in found if each is not last_good and last_good is not None and each.made_at < limit]
    return gone


def abandoned_keys(keys: Mapping[str, datetime], sets: Iterable[ArchiveSet], now: datetime) -> list[str]:
    """What runs that were killed have left in object storage: no set names it, and nobody works on it any more.

    Args:
        keys: All keys of an environment's archives, with the moments of their last changes.
        sets: All sets of the environment.
        now: The current moment.
    """
    named = {key for each in sets for key in (each.key, each.manifest_key, each.directory + SET)}
    return [key for key, changed_at in keys.items() if key not in named and changed_at < now - ABANDONED_AFTER]


def keys_of(archive: ArchiveSet) -> tuple[str, ...]:
    """A set's keys in the order in which they are deleted: killed in between, nothing looks whole that is not."""
    return (archive.directory + SET, archive.key, archive.manifest_key)


def catalog_label(archive: ArchiveSet) -> str:
    """How the ledger's catalog names a set."""
    return f"{archive.host}/{archive.label}"
