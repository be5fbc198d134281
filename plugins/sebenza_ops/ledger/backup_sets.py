"""Backup sets: what was backed up, verified and restored, compared with what is in the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import RecordUnknown
from sebenza_ops.ledger.masking import mask_object, mask_text
from sebenza_ops.ledger.models import BackupSetRow
from sebenza_ops.ledger.values import Holder


class BackupKind(StrEnum):
    """What a backup set is."""

    PHYSICAL = "physical"
    """Files of the whole cluster, in pgBackRest's repository."""
    LOGICAL = "logical"
    """A dump of one database."""
    APPLICATION = "application"
    """The application and the configuration of one host."""


@dataclass(frozen=True, slots=True)
class BackupSet:
    """One backup set.

    Attributes:
        environment: Whose database it holds.
        kind: What it is.
        label: Its name in its repository.
        backup_type: full, diff, incr or dump.
        started_at: When it began.
        finished_at: When it was whole.
        size_bytes: What a restore writes.
        stored_bytes: What was added to the repository.
        based_on: The label of the set that it needs; None for one that stands alone.
        detail: LSNs, WAL segments, keys of files, the manifest's key.
        made_by: The run that made it; None for one that was found in the repository.
        verified_at: When all of it was last read back and right.
        bad_since: Since when it is known to be damaged.
        bad_reason: What is wrong with it.
        restore_tested_at: When it was last restored and compared.
        gone_at: Since when it is no longer in the repository.
        gone_reason: Why it is not.
    """

    environment: str
    kind: BackupKind
    label: str
    backup_type: str
    started_at: datetime
    finished_at: datetime
    size_bytes: int
    stored_bytes: int
    based_on: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    made_by: Holder | None = None
    verified_at: datetime | None = None
    bad_since: datetime | None = None
    bad_reason: str | None = None
    restore_tested_at: datetime | None = None
    gone_at: datetime | None = None
    gone_reason: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether it is there, was verified, and is not known to be damaged."""
        return self.gone_at is None and self.bad_since is None and self.verified_at is not None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What the catalog learned from the repository: labels that it did not know, and labels that are gone."""

    added: tuple[str, ...]
    gone: tuple[str, ...]


class BackupSets:
    """The catalog of backup sets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, backup_set: BackupSet) -> BackupSet:
        """Keep a set that a run has made. Repeated by the same run, it adds the newer detail."""
        with self._database.writing() as session:
            now = self._database.now(session)
            row = _row(session, backup_set.environment, backup_set.kind, backup_set.label)
            if row is None:
                row = _add(session, backup_set)
                actor = backup_set.made_by.actor if backup_set.made_by else "the repository"
                detail = {"type": backup_set.backup_type, "kind": backup_set.kind.value}
                write_audit(session, now, "backup.recorded", actor, row.environment, row.label, detail)
            else:
                row.detail = {**row.detail, **mask_object(backup_set.detail)}
                if row.run_id is None and backup_set.made_by is not None:
                    _set_maker(row, backup_set.made_by)
            return _value(row)

    def mark_verified(self, environment: str, kind: BackupKind, labels: Iterable[str]) -> None:
        """All of these sets were read back and are right. Raises RecordUnknown."""
        with self._database.writing() as session:
            now = self._database.now(session)
            for label in labels:
                row = _known(session, environment, kind, label)
                row.verified_at, row.bad_since, row.bad_reason = now, None, None

    def mark_bad(self, environment: str, kind: BackupKind, label: str, reason: str, run: Holder) -> None:
        """The set is damaged: nothing counts on it any more. The first moment stays. Raises RecordUnknown."""
        with self._database.writing() as session:
            now = self._database.now(session)
            row = _known(session, environment, kind, label)
            if row.bad_since is None:
                row.bad_since = now
                write_audit(session, now, "backup.bad", run.actor, environment, label, {"reason": reason})
            row.bad_reason = mask_text(reason)

    def mark_restored(self, environment: str, kind: BackupKind, label: str) -> None:
        """The set was restored and compared with its manifest. Raises RecordUnknown."""
        with self._database.writing() as session:
            _known(session, environment, kind, label).restore_tested_at = self._database.now(session)

    def reconcile(
        self, environment: str, kind: BackupKind, found: Iterable[BackupSet], reason: str, actor: str
    ) -> Reconciliation:
        """Make the catalog say what the repository says; verdicts about sets that are there stay.

        Args:
            environment: The environment.
            kind: The kind of sets that the repository holds.
            found: All sets that are in the repository.
            reason: Why sets that are no longer there are gone, for all that this call finds.
            actor: Who looked.
        """
        there = {each.label: each for each in found}
        with self._database.writing() as session:
            now = self._database.now(session)
            known = {row.label: row for row in session.scalars(_query(environment, kind))}
            added = [label for label in there if label not in known]
            for label in added:
                _add(session, there[label])
                detail = {"kind": kind.value, "type": there[label].backup_type}
                write_audit(session, now, "backup.found", actor, environment, label, detail)
            gone = [label for label, row in known.items() if label not in there and row.gone_at is None]
            for label in gone:
                known[label].gone_at, known[label].gone_reason = now, mask_text(reason)
                write_audit(session, now, "backup.gone", actor, environment, label, {"reason": reason})
            for label in there.keys() & known.keys():
                # A repository that came back, or a listing that was short.
                known[label].gone_at = known[label].gone_reason = None
            return Reconciliation(tuple(added), tuple(gone))

    def present(self, environment: str, kind: BackupKind) -> list[BackupSet]:
        """The sets that are in the repository by the catalog, the newest first."""
        query = _query(environment, kind).where(BackupSetRow.gone_at.is_(None))
        with self._database.reading() as session:
            return [_value(row) for row in session.scalars(query)]

    def find(self, environment: str, kind: BackupKind, label: str) -> BackupSet | None:
        """One set, there or gone; None when it was never seen."""
        with self._database.reading() as session:
            row = _row(session, environment, kind, label)
            return _value(row) if row is not None else None

    def of_run(self, dag_id: str, run_id: str) -> list[BackupSet]:
        """The sets that a run has made."""
        query = select(BackupSetRow).where(BackupSetRow.dag_id == dag_id, BackupSetRow.run_id == run_id)
        with self._database.reading() as session:
            return [_value(row) for row in session.scalars(query.order_by(BackupSetRow.id))]


def _query(environment: str, kind: BackupKind) -> Any:
    return (
        select(BackupSetRow)
        .where(BackupSetRow.environment == environment, BackupSetRow.kind == kind.value)
        .order_by(BackupSetRow.finished_at.desc(), BackupSetRow.id.desc())
    )


def _row(session: Session, environment: str, kind: BackupKind, label: str) -> BackupSetRow | None:
    row: BackupSetRow | None = session.scalars(
        _query(environment, kind).where(BackupSetRow.label == label)
    ).one_or_none()
    return row


def _known(session: Session, environment: str, kind: BackupKind, label: str) -> BackupSetRow:
    row = _row(session, environment, kind, label)
    if row is None:
        raise RecordUnknown(f"The catalog knows no {kind} backup {label!r} of {environment}; reconcile it first.")
    return row


def _add(session: Session, backup_set: BackupSet) -> BackupSetRow:
    row = BackupSetRow(
        environment=backup_set.environment,
        kind=backup_set.kind.value,
        label=backup_set.label,
        backup_type=backup_set.backup_type,
        based_on=backup_set.based_on,
        started_at=backup_set.started_at,
        finished_at=backup_set.finished_at,
        size_bytes=backup_set.size_bytes,
        stored_bytes=backup_set.stored_bytes,
        detail=mask_object(backup_set.detail),
    )
    if backup_set.made_by is not None:
        _set_maker(row, backup_set.made_by)
    session.add(row)
    session.flush()
    return row


def _set_maker(row: BackupSetRow, run: Holder) -> None:
    row.dag_id, row.run_id, row.actor = run.dag_id, run.run_id, run.actor


def _value(row: BackupSetRow) -> BackupSet:
    found = BackupSet(
        environment=row.environment,
        kind=BackupKind(row.kind),
        label=row.label,
        backup_type=row.backup_type,
        started_at=row.started_at,
        finished_at=row.finished_at,
        size_bytes=row.size_bytes,
        stored_bytes=row.stored_bytes,
        based_on=row.based_on,
        detail=row.detail,
        verified_at=row.verified_at,
        bad_since=row.bad_since,
        bad_reason=row.bad_reason,
        restore_tested_at=row.restore_tested_at,
        gone_at=row.gone_at,
        gone_reason=row.gone_reason,
    )
    if row.dag_id is None or row.run_id is None:
        return found
    return replace(found, made_by=Holder(row.dag_id, row.run_id, row.actor or ""))
