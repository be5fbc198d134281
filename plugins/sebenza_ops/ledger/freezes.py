"""Freezes: an environment that refuses every change but a rollback, until a given time.

The functions work inside a lease transaction, which holds the environment's fence row: a freeze and a change that
begin at the same moment are in one order for everybody.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.models import FreezeRow
from sebenza_ops.ledger.values import Freeze, Holder


def live_freeze(session: Session, environment: str, now: datetime) -> Freeze | None:
    """Return the freeze that counts now, or None."""
    row = _open_row(session, environment)
    return freeze_value(row) if row is not None and row.expires_at > now else None


def place_freeze(
    session: Session, environment: str, holder: Holder, reason: str, expires_at: datetime, now: datetime
) -> Freeze:
    """Freeze the environment; an earlier freeze ends, as this one takes its place."""
    row = _open_row(session, environment)
    if row is not None and row.dag_id == holder.dag_id and row.run_id == holder.run_id:
        return freeze_value(row)
    if row is not None:
        _end(session, row, f"replaced by {holder}", holder.actor, now)
    row = FreezeRow(
        environment=environment,
        dag_id=holder.dag_id,
        run_id=holder.run_id,
        actor=holder.actor,
        reason=reason,
        frozen_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    detail = {"reason": reason, "until": expires_at.isoformat()}
    write_audit(session, now, "freeze.placed", holder.actor, environment, str(holder), detail)
    return freeze_value(row)


def lift_freeze(session: Session, environment: str, reason: str, actor: str, now: datetime) -> Freeze | None:
    """End the environment's freeze; return the one that was ended, or None when there was none."""
    row = _open_row(session, environment)
    if row is None or row.expires_at <= now:
        return None
    _end(session, row, reason, actor, now)
    return freeze_value(row)


def freeze_value(row: FreezeRow) -> Freeze:
    """Return the row as a value."""
    return Freeze(row.environment, Holder(row.dag_id, row.run_id, row.actor), row.reason, row.frozen_at, row.expires_at)


def _end(session: Session, row: FreezeRow, reason: str, actor: str, now: datetime) -> None:
    is_over = row.expires_at <= now
    row.ended_at, row.end_reason = (row.expires_at, "expired") if is_over else (now, reason)
    # The index on open freezes must see the end before the next one is inserted.
    session.flush()
    if not is_over:
        subject = str(Holder(row.dag_id, row.run_id, row.actor))
        write_audit(session, now, "freeze.ended", actor, row.environment, subject, {"reason": reason})


def _open_row(session: Session, environment: str) -> FreezeRow | None:
    return session.scalars(
        select(FreezeRow).where(FreezeRow.environment == environment, FreezeRow.ended_at.is_(None))
    ).one_or_none()
