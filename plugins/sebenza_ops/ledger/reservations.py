"""Reservations: an environment announced for a change while gates run and people decide.

The functions work inside a lease transaction, which holds the environment's fence row.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.errors import ReservationHeld
from sebenza_ops.ledger.models import ReservationRow
from sebenza_ops.ledger.values import Holder, Reservation


def live_reservation(session: Session, environment: str, now: datetime) -> ReservationRow | None:
    """Return the reservation that counts now, or None."""
    row = _open_row(session, environment)
    return row if row is not None and row.expires_at > now else None


def place_reservation(
    session: Session, environment: str, holder: Holder, purpose: str, ttl_seconds: float, now: datetime
) -> ReservationRow:
    """Reserve the environment, or prolong the run's own reservation.

    Raises ReservationHeld when another run's reservation is alive.
    """
    row = _open_row(session, environment)
    expires_at = now + timedelta(seconds=ttl_seconds)
    if row is not None and row.expires_at > now:
        if not reserved_by(row).is_run(holder):
            raise ReservationHeld(reservation_value(row))
        row.expires_at = expires_at
        row.purpose = purpose
        return row
    if row is not None:
        row.ended_at, row.end_reason = row.expires_at, "expired"
        session.flush()
    row = ReservationRow(
        environment=environment,
        dag_id=holder.dag_id,
        run_id=holder.run_id,
        actor=holder.actor,
        purpose=purpose,
        reserved_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    write_audit(session, now, "reservation.placed", holder.actor, environment, str(holder), {"purpose": purpose})
    return row


def end_reservation(
    session: Session, environment: str, holder: Holder | None, reason: str, actor: str, now: datetime
) -> bool:
    """End the run's reservation (any run's when `holder` is None); say whether one was open."""
    row = _open_row(session, environment)
    if row is None or (holder is not None and not reserved_by(row).is_run(holder)):
        return False
    row.ended_at, row.end_reason = now, reason
    write_audit(session, now, "reservation.ended", actor, environment, str(reserved_by(row)), {"reason": reason})
    return True


def reserved_by(row: ReservationRow) -> Holder:
    """Return the run that placed the reservation."""
    return Holder(row.dag_id, row.run_id, row.actor)


def reservation_value(row: ReservationRow) -> Reservation:
    """Return the row as a value."""
    return Reservation(row.environment, reserved_by(row), row.purpose, row.reserved_at, row.expires_at)


def _open_row(session: Session, environment: str) -> ReservationRow | None:
    return session.scalars(
        select(ReservationRow).where(ReservationRow.environment == environment, ReservationRow.ended_at.is_(None))
    ).one_or_none()
