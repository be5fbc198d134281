"""The append-only audit: who did what."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.masking import mask_object, mask_text
from sebenza_ops.ledger.models import AuditRow
from sebenza_ops.ledger.values import AuditEntry


class Audit:
    """Entries can be added and read; the database refuses to change or delete them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self, action: str, actor: str, environment: str | None, subject: str, detail: Mapping[str, Any] | None = None
    ) -> AuditEntry:
        """Add an entry: `append("release.forced", "thandi", "production", "v1.2.0-0a1b2c3d4e5f", {"reason": ...})`."""
        with self._database.writing() as session:
            row = write_audit(session, self._database.now(session), action, actor, environment, subject, detail)
            session.flush()
            return _entry(row)

    def entries(
        self,
        *,
        environment: str | None = None,
        action: str | None = None,
        subject: str | None = None,
        after_id: int = 0,
        limit: int = 100,
    ) -> list[AuditEntry]:
        """Return the newest entries first, optionally of one environment, action or subject."""
        query = select(AuditRow).where(AuditRow.id > after_id).order_by(AuditRow.id.desc()).limit(limit)
        if environment is not None:
            query = query.where(AuditRow.environment == environment)
        if action is not None:
            query = query.where(AuditRow.action == action)
        if subject is not None:
            query = query.where(AuditRow.subject == mask_text(subject))
        with self._database.reading() as session:
            return [_entry(row) for row in session.scalars(query)]


def write_audit(
    session: Session,
    at: datetime,
    action: str,
    actor: str,
    environment: str | None,
    subject: str,
    detail: Mapping[str, Any] | None = None,
) -> AuditRow:
    """Add an entry within a transaction, so that it is kept exactly when the change that it tells of is."""
    row = AuditRow(
        at=at,
        action=action,
        actor=actor,
        environment=environment,
        subject=mask_text(subject),
        detail=mask_object(detail or {}),
    )
    session.add(row)
    return row


def _entry(row: AuditRow) -> AuditEntry:
    return AuditEntry(
        id=row.id,
        at=row.at,
        action=row.action,
        actor=row.actor,
        environment=row.environment,
        subject=row.subject,
        detail=row.detail,
    )
