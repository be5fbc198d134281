"""Findings: what a drill or a recovery has shown that somebody must mend, until it is closed.

Both are entries of the audit, so that neither can be changed: a finding is open until an entry says that it is closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import RecordUnknown
from sebenza_ops.ledger.models import AuditRow

OPENED, CLOSED = "finding.opened", "finding.closed"


@dataclass(frozen=True)
class Finding:
    """Something that somebody must mend. `id` is its number in the audit, `run` what has found it."""

    id: int
    at: datetime
    environment: str
    subject: str
    text: str
    owner: str
    run: str

    @property
    def words(self) -> str:
        """In words."""
        return f"finding {self.id} ({self.subject}), owner {self.owner}: {self.text}"


class Findings:
    """The findings of every environment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_ones(self, environment: str) -> list[Finding]:
        """Return those that nobody has closed, the newest first."""
        with self._database.reading() as session:
            opened = select(AuditRow).where(AuditRow.environment == environment, AuditRow.action == OPENED)
            closed = select(AuditRow.subject).where(AuditRow.environment == environment, AuditRow.action == CLOSED)
            done = set(session.scalars(closed))
            rows = session.scalars(opened.order_by(AuditRow.id.desc()))
            return [_finding(row) for row in rows if str(row.id) not in done]

    def find(self, environment: str, number: int) -> Finding:
        """Return a finding that is open. Raises RecordUnknown, with those that are."""
        found = self.open_ones(environment)
        for each in found:
            if each.id == number:
                return each
        shown = "; ".join(each.words for each in found) or "none is"
        raise RecordUnknown(f"{environment} has no open finding {number}; open: {shown}")

    def close(self, environment: str, number: int, done: str, actor: str, run: str, approved_by: str) -> bool:
        """Close a finding, with what was done. Returns whether it was open; closed by the same run, that is no error.

        Raises RecordUnknown.
        """
        with self._database.writing() as session:
            row = session.get(AuditRow, number)
            if row is None or row.action != OPENED or row.environment != environment:
                raise RecordUnknown(f"{environment} has no finding {number}")
            before = select(AuditRow).where(
                AuditRow.environment == environment, AuditRow.action == CLOSED, AuditRow.subject == str(number)
            )
            if session.scalars(before).first() is not None:
                return False
            detail = {"run": run, "done": done, "approved_by": approved_by, "subject": row.subject}
            write_audit(session, self._database.now(session), CLOSED, actor, environment, str(number), detail)
            return True


def _finding(row: AuditRow) -> Finding:
    detail = dict(row.detail)
    return Finding(
        id=row.id,
        at=row.at,
        environment=str(row.environment),
        subject=row.subject,
        text=str(detail.get("finding") or ""),
        owner=str(detail.get("owner") or ""),
        run=str(detail.get("run") or ""),
    )
