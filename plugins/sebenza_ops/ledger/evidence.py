"""Evidence: the facts that a run gathers, in order."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import select

from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.masking import mask_object
from sebenza_ops.ledger.models import EvidenceRow
from sebenza_ops.ledger.values import EvidenceEntry


class Evidence:
    """Facts of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, dag_id: str, run_id: str, kind: str, payload: Mapping[str, Any], at: datetime | None = None
    ) -> EvidenceEntry:
        """Keep a fact of a run; `at` is when it was observed, now when None."""
        with self._database.writing() as session:
            row = EvidenceRow(
                dag_id=dag_id,
                run_id=run_id,
                kind=kind,
                at=at if at is not None else self._database.now(session),
                payload=mask_object(payload),
            )
            session.add(row)
            session.flush()
            return _entry(row)

    def entries(self, dag_id: str, run_id: str, kind: str | None = None) -> list[EvidenceEntry]:
        """Return a run's facts in the order in which they were observed."""
        query = (
            select(EvidenceRow)
            .where(EvidenceRow.dag_id == dag_id, EvidenceRow.run_id == run_id)
            .order_by(EvidenceRow.at, EvidenceRow.id)
        )
        if kind is not None:
            query = query.where(EvidenceRow.kind == kind)
        with self._database.reading() as session:
            return [_entry(row) for row in session.scalars(query)]


def _entry(row: EvidenceRow) -> EvidenceEntry:
    return EvidenceEntry(row.id, row.dag_id, row.run_id, row.kind, row.at, row.payload)
