"""What may be removed: never the last good set, and nothing after a backup that was not verified. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sebenza_ops.ledger import BackupSet


def reason_to_keep(expiring: Collection[str], present: Sequence[BackupSet], own_chain: Collection[str]) -> str:
    """Why the sets that are due must not be removed; empty when they may be.

    Args:
        expiring: The labels that would be removed.
        present: The sets that are in the repository, by the catalog.
        own_chain: The set that was just made, and all that it needs.
    """
    needed = sorted(set(own_chain) & set(expiring))
    if needed:
        return f"{', '.join(needed)} is what this backup is based on"
    good = [each for each in present if each.backup_type == "full" and each.is_good and each.label not in expiring]
    if not good:
        return "no full backup that was verified would be left"
    return ""


def dumps_to_delete(present: Sequence[BackupSet], days: int, now: datetime) -> list[BackupSet]:
    """The dumps that are older than so many days, but the newest good one."""
    good = [each for each in present if each.is_good]
    newest = max(good, key=lambda each: each.finished_at, default=None)
    if newest is None:
        return []
    limit = now - timedelta(days=days)
    return [each for each in present if each.finished_at < limit and each.label != newest.label]
