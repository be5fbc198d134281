"""Recovery points: how much of an environment's database would be lost now, and since when that is too much."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.masking import mask_text
from sebenza_ops.ledger.models import RecoveryPointRow
from sebenza_ops.ledger.values import Holder

MISSED, MET = "recovery_point.missed", "recovery_point.met"


@dataclass(frozen=True, slots=True)
class KnownPoint:
    """What is known of an environment's recovery point.

    Attributes:
        archived_until: Every commit until then is in the repository; None when that can't be told.
        checked_at: When that was asked last.
        reason: Why it is so, or why it could not be asked.
        objective_seconds: The objective then.
        missed_since: Since when the objective is missed.
        told_at: When people were last told of that.
    """

    archived_until: datetime | None
    checked_at: datetime
    reason: str
    objective_seconds: int
    missed_since: datetime | None = None
    told_at: datetime | None = None

    def seconds(self, now: datetime) -> float | None:
        """At most so many seconds of commits would be lost; None when that can't be told."""
        return None if self.archived_until is None else max(0.0, (now - self.archived_until).total_seconds())

    @property
    def is_to_be_told(self) -> bool:
        """Whether people are to hear of it: when it is missed, and once more each time the objective passes again."""
        if self.missed_since is None:
            return False
        pause = timedelta(seconds=self.objective_seconds)
        return self.told_at is None or self.checked_at - self.told_at >= pause

    @property
    def is_over(self) -> bool:
        """Whether people were told that it is missed, and it is met again."""
        return self.missed_since is None and self.told_at is not None


class RecoveryPoints:
    """The newest answer of every environment. Crossing the objective is an entry of the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def latest(self, environment: str) -> KnownPoint | None:
        """What is known; None when it was never asked."""
        with self._database.reading() as session:
            row = session.get(RecoveryPointRow, environment)
            return _value(row) if row is not None else None

    def record(
        self, environment: str, seconds: float | None, reason: str, objective_seconds: int, run: Holder
    ) -> KnownPoint:
        """Keep what was found.

        Args:
            environment: The environment.
            seconds: At most so much would be lost; None when that can't be told although all was asked.
            reason: Why.
            objective_seconds: More is a miss; so is what can't be told.
            run: Who asked.
        """
        with self._database.writing() as session:
            now = self._database.now(session)
            until = None if seconds is None else now - timedelta(seconds=seconds)
            return _keep(session, environment, until, reason, objective_seconds, now, run)

    def carry_on(self, environment: str, reason: str, objective_seconds: int, run: Holder) -> KnownPoint:
        """Nothing could be asked: what was archived before still is, and nothing more is counted on."""
        with self._database.writing() as session:
            now, row = self._database.now(session), session.get(RecoveryPointRow, environment)
            until = row.archived_until if row is not None else None
            return _keep(session, environment, until, reason, objective_seconds, now, run)

    def mark_told(self, environment: str) -> None:
        """People have been told of the state that was recorded last."""
        with self._database.writing() as session:
            row = session.get(RecoveryPointRow, environment)
            if row is not None:
                row.told_at = self._database.now(session) if row.missed_since is not None else None


def _keep(
    session: Session,
    environment: str,
    until: datetime | None,
    reason: str,
    objective_seconds: int,
    now: datetime,
    run: Holder,
) -> KnownPoint:
    row = session.get(RecoveryPointRow, environment)
    if row is None:
        row = RecoveryPointRow(environment=environment, missed_since=None, told_at=None)
        session.add(row)
    row.archived_until, row.checked_at, row.objective_seconds = until, now, objective_seconds
    row.reason = mask_text(reason)
    is_missed = until is None or (now - until).total_seconds() > objective_seconds
    if is_missed != (row.missed_since is not None):
        row.missed_since = now if is_missed else None
        detail = {"run": str(run), "reason": row.reason, "objective_seconds": objective_seconds}
        write_audit(session, now, MISSED if is_missed else MET, run.actor, environment, "recovery point", detail)
    return _value(row)


def _value(row: RecoveryPointRow) -> KnownPoint:
    return KnownPoint(
        archived_until=row.archived_until,
        checked_at=row.checked_at,
        reason=row.reason,
        objective_seconds=row.objective_seconds,
        missed_since=row.missed_since,
        told_at=row.told_at,
    )
