"""What the overview says of recovery: how much would be lost now, how long it would take, and when that was proven."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.evidence.summary import Tone
from sebenza_ops.evidence.wording import duration, moment
from sebenza_ops.ledger import BackupKind, BackupSet, KnownPoint, Ledger
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION

# Three rounds of watch_recovery_point without an answer: nobody looks any more.
STALE_AFTER = timedelta(minutes=30)
# A week, and a day for a run that came late; a month likewise.
PROVEN_EVERY, DRILLED_EVERY = timedelta(days=8), timedelta(days=32)


@dataclass(frozen=True)
class ReadinessLine:
    """One thing that is known of recovery."""

    title: str
    word: str
    tone: Tone
    sentence: str


def readiness(environment: Environment, ledger: Ledger, now: datetime) -> list[ReadinessLine]:
    """The lines of one environment; none where nothing is backed up.

    Raises LedgerError.
    """
    policies, name = environment.policies, environment.name
    if policies.backup is None:
        return []
    sets = ledger.backup_sets.present(name, BackupKind.PHYSICAL)
    tested = [each for each in sets if each.restore_tested_at is not None and each.bad_since is None]
    newest = max(tested, key=lambda each: each.restore_tested_at or now, default=None)
    lines = [
        loss_line(name, ledger.recovery_points.latest(name), now),
        restore_line(name, newest, policies.objectives.rto_seconds, policies.backup.restore_test.production_bytes, now),
    ]
    if policies.disaster_recovery is not None:
        drills = ledger.audit.entries(environment=name, action=DRILLED_ACTION, limit=1)
        lines.append(drill_line(name, (drills[0].at, drills[0].detail) if drills else None, now))
    return lines


def loss_line(environment: str, point: KnownPoint | None, now: datetime) -> ReadinessLine:
    """How much would be lost if the primary were gone now."""
    title, watch = "Loss", f"watch_recovery_point.{environment}"
    if point is None:
        return ReadinessLine(title, "not known", "warning", f"Nobody has asked yet: switch on {watch}")
    seconds, asked = point.seconds(now), duration((now - point.checked_at).total_seconds())
    objective = duration(point.objective_seconds)
    if seconds is None:
        return ReadinessLine(title, "not known", "error", f"It can't be told: {point.reason} (asked {asked} ago)")
    is_stale = now - point.checked_at > STALE_AFTER
    # As of the answer, while somebody asks all the time; what came after is counted as lost when nobody does.
    at_most = duration(seconds if is_stale else point.seconds(point.checked_at) or 0)
    sentence = f"At most {at_most} of commits, objective {objective} (asked {asked} ago)"
    if point.missed_since is not None:
        return ReadinessLine(title, "missed", "error", f"{sentence}: {point.reason}")
    if is_stale:
        return ReadinessLine(title, "old", "warning", f"{sentence}. Nobody asks any more: look at {watch}")
    return ReadinessLine(title, "met", "success", sentence)


def restore_line(
    environment: str, proven: BackupSet | None, objective_seconds: float, size_bytes: int, now: datetime
) -> ReadinessLine:
    """Which set was restored last, how long that took, and what that says of the production size."""
    title, verify = "Restore", f"verify_backups.{environment}"
    if proven is None or proven.restore_tested_at is None:
        return ReadinessLine(title, "not proven", "warning", f"No backup was restored yet: run {verify}")
    measured: dict[str, Any] = dict(proven.detail.get("restore_test") or {})
    sentence = f"{proven.label} was restored and proven on {moment(proven.restore_tested_at)}"
    if measured:
        took = duration(float(measured["restore_seconds"]) + float(measured["replay_seconds"]))
        sentence += f", in {took}"
    projection = dict(measured.get("projection") or {})
    seconds, size = projection.get("seconds"), f"{size_bytes / 10**9:.0f} GB"
    if seconds is None:
        sentence += f"; {size} can't be projected from it"
    else:
        low, high = (duration(float(projection[name])) for name in ("low_seconds", "high_seconds"))
        sentence += f"; {size} would take {duration(float(seconds))} ({low} to {high}), objective "
        sentence += duration(objective_seconds)
    if seconds is not None and float(projection["high_seconds"]) > objective_seconds:
        return ReadinessLine(title, "too slow", "error", sentence)
    if now - proven.restore_tested_at > PROVEN_EVERY:
        return ReadinessLine(title, "old", "warning", f"{sentence}. That is more than a week ago: look at {verify}")
    return ReadinessLine(title, "proven", "success", sentence)


def drill_line(environment: str, drill: tuple[datetime, Mapping[str, Any]] | None, now: datetime) -> ReadinessLine:
    """What the last drill has measured. What it has missed is an open finding."""
    title, procedure = "Drill", f"disaster_recovery_drill.{environment}"
    if drill is None:
        return ReadinessLine(title, "none yet", "warning", f"The secondary site was never tried: run {procedure}")
    at, measured = drill
    served = measured.get("rto_from_start_seconds")
    lost = measured.get("rpo_seconds")
    sentence = f"On {moment(at)}: "
    sentence += "users would not have been served" if served is None else f"served after {duration(float(served))}"
    sentence += "" if lost is None else f", the last {duration(float(lost))} lost"
    if now - at > DRILLED_EVERY:
        return ReadinessLine(title, "old", "warning", f"{sentence}. That is more than a month ago: look at {procedure}")
    return ReadinessLine(
        title, "error" if served is None else "done", "error" if served is None else "success", sentence
    )
