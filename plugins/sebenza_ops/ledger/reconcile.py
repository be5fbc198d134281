"""Carrying journals over into the ledger when it is back, as often as one likes: what is there already is left alone.

An entry is recognized by what it says and by its moment, to the microsecond; a lease by its token. All of a journal is
carried over in one transaction, which holds the environments' fences, so that two machines do not do it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import inspect, select
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import LedgerError
from sebenza_ops.ledger.journal import pending_journals, read_journal
from sebenza_ops.ledger.models import (
    AuditRow,
    BadReleaseRow,
    Base,
    DeploymentRow,
    EvidenceRow,
    FenceRow,
    KnownGoodRow,
    LeaseRow,
    MessageRow,
)
from sebenza_ops.ledger.store import Ledger
from sebenza_ops.ledger.values import Holder, MessageState

log = logging.getLogger(__name__)

# A run that has not ended in a day has died; what it kept is in the ledger.
UNFINISHED_DAYS = 1
RECONCILED = "reconciled"

# By which columns an entry is the same one.
_SAME: dict[type[Base], tuple[str, ...]] = {
    AuditRow: ("at", "action", "actor", "environment", "subject"),
    EvidenceRow: ("dag_id", "run_id", "kind", "at"),
    KnownGoodRow: ("environment", "release_id", "dag_id", "run_id"),
    BadReleaseRow: ("environment", "release_id", "dag_id", "run_id"),
}
_DEPLOYMENT_FIELDS = (
    "release_id",
    "previous_release_id",
    "from_color",
    "to_color",
    "phase",
    "plan",
    "outcome",
    "detail",
    "evidence_url",
    "finished_at",
)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of one journal: how many entries the ledger has got from it, and whether the journal is done with."""

    file: Path
    entries: int
    is_done: bool

    def __str__(self) -> str:
        rest = "done with" if self.is_done else "its run has not ended"
        return f"{self.file.name}: {self.entries} entries carried over, {rest}"


class Journal:
    """All that a journal holds, read at once. Raises LedgerError when it can't be read."""

    def __init__(self, journal: Ledger) -> None:
        models: tuple[type[Any], ...] = (FenceRow, LeaseRow, DeploymentRow, MessageRow, *_SAME)
        with journal.database.reading() as session:
            self.rows: dict[type[Base], list[Any]] = {
                model: list(session.scalars(select(model).order_by(*inspect(model).primary_key))) for model in models
            }

    @property
    def run(self) -> Holder:
        """The run that kept it."""
        row = next(iter([*self.rows[DeploymentRow], *self.rows[LeaseRow]]), None)
        return Holder(row.dag_id, row.run_id, row.actor) if row is not None else Holder("unknown", "unknown", "unknown")

    def is_over(self, now: datetime) -> bool:
        """Whether its run has ended, or has died long ago."""
        latest = max((row.at for row in self.rows[AuditRow]), default=now)
        if latest < now - timedelta(days=UNFINISHED_DAYS):
            return True
        deployments = self.rows[DeploymentRow]
        has_lease = any(row.ended_at is None and row.expires_at > now for row in self.rows[LeaseRow])
        return bool(deployments) and all(row.finished_at is not None for row in deployments) and not has_lease


def reconcile_pending(ledger: Ledger) -> list[Reconciled]:
    """Carry every journal of this machine over; one that is done with is moved aside.

    One that can't be read, or contradicts the ledger, stays where it is, and the log says so. Raises LedgerUnavailable,
    with the journals as they were.
    """
    done = []
    for file in pending_journals():
        try:
            journal = Journal(read_journal(file))
        except LedgerError as error:
            log.error("the journal %s can't be read, it stays where it is: %s", file, error)
            continue
        try:
            added = merge(journal, ledger)
        except (IntegrityError, DataError):
            # What the two say can't both be; nobody is kept from changing anything by it.
            log.exception("the journal %s contradicts the ledger, it stays where it is", file)
            continue
        with ledger.database.reading() as session:
            now = ledger.database.now(session)
        result = Reconciled(file, added, journal.is_over(now))
        if result.is_done:
            _move_aside(file)
        if result.entries:
            log.warning("what was kept while the ledger was down is in it now: %s", result)
        done.append(result)
    return done


def merge(journal: Journal, ledger: Ledger) -> int:
    """Carry what a journal holds over into the ledger; return how many entries the ledger did not have."""
    with ledger.database.writing() as session:
        now = ledger.database.now(session)
        added = sum(_merge_leases(session, ledger.database, fence, journal, now) for fence in journal.rows[FenceRow])
        for model, same in _SAME.items():
            added += sum(_merge_row(session, row, same) for row in journal.rows[model])
        added += sum(_merge_deployment(session, row) for row in journal.rows[DeploymentRow])
        added += sum(_merge_message(session, ledger.database, row) for row in journal.rows[MessageRow])
        if added:
            run = journal.run
            environment = run.dag_id.partition(".")[2] or None
            write_audit(session, now, "journal.reconciled", run.actor, environment, str(run), {"entries": added})
        return added


def _move_aside(file: Path) -> None:
    aside = file.parent / RECONCILED
    try:
        aside.mkdir(mode=0o700, exist_ok=True)
        file.replace(aside / file.name)
    except FileNotFoundError:
        log.info("%s was moved by another process", file)
    except OSError as error:
        log.error("the journal %s is carried over, but can't be moved aside: %s", file, error)


def _merge_leases(session: Session, database: Database, fence: FenceRow, journal: Journal, now: datetime) -> int:
    name = fence.environment
    database.insert_if_absent(session, FenceRow, {"environment": name, "last_token": 0}, ["environment"])
    mine = session.scalars(select(FenceRow).where(FenceRow.environment == name).with_for_update()).one()
    mine.last_token = max(mine.last_token, fence.last_token)
    leases = [lease for lease in journal.rows[LeaseRow] if lease.environment == name]
    return sum(_merge_lease(session, lease, now) for lease in leases)


def _merge_lease(session: Session, lease: LeaseRow, now: datetime) -> int:
    same = (LeaseRow.environment == lease.environment) & (LeaseRow.token == lease.token)
    known = session.scalars(select(LeaseRow).where(same)).one_or_none()
    run = Holder(lease.dag_id, lease.run_id, lease.actor)
    if known is not None:
        is_same_run = run.is_run(Holder(known.dag_id, known.run_id, known.actor))
        if is_same_run and known.ended_at is None and lease.ended_at is not None:
            known.ended_at, known.end_reason = lease.ended_at, lease.end_reason
            session.flush()
            return 1
        if is_same_run and known.ended_at is None:
            known.expires_at = max(known.expires_at, lease.expires_at)
        return 0
    values = _values(lease)
    open_now = (LeaseRow.environment == lease.environment) & LeaseRow.ended_at.is_(None)
    held = session.scalars(select(LeaseRow).where(open_now)).one_or_none()
    if held is not None and held.token < lease.token:
        _end_fenced_off(session, held, run, now)
    elif held is not None and lease.ended_at is None:
        values |= {"ended_at": now, "end_reason": f"fencing token {held.token} came after it"}
    if values["ended_at"] is None and lease.expires_at <= now:
        values |= {"ended_at": lease.expires_at, "end_reason": "expired"}
    session.add(LeaseRow(**values))
    session.flush()
    return 1


def _end_fenced_off(session: Session, held: LeaseRow, by: Holder, now: datetime) -> None:
    """End the lease of a run that the hosts refuse since the emergency took the environment over."""
    holder = Holder(held.dag_id, held.run_id, held.actor)
    if held.expires_at <= now:
        held.ended_at, held.end_reason = held.expires_at, "expired"
    elif holder.is_run(by):
        held.ended_at, held.end_reason = now, "went on in the journal of the run"
    else:
        held.ended_at, held.end_reason = now, f"taken over by {by} while the ledger was down"
    detail = {"fencing_token": held.token, "reason": held.end_reason}
    write_audit(session, now, "lease.ended", by.actor, held.environment, str(holder), detail)
    session.flush()


def _merge_row(session: Session, row: Base, same: Iterable[str]) -> int:
    model: Any = type(row)
    conditions = [getattr(model, name) == getattr(row, name) for name in same]
    if session.scalars(select(model).where(*conditions).limit(1)).one_or_none() is not None:
        return 0
    # Of bad marks the first reason stays.
    if isinstance(row, BadReleaseRow) and row.ended_at is None and _is_marked_bad(session, row):
        return 0
    session.add(model(**_values(row)))
    session.flush()
    return 1


def _is_marked_bad(session: Session, row: BadReleaseRow) -> bool:
    found = session.scalars(
        select(BadReleaseRow).where(
            BadReleaseRow.environment == row.environment,
            BadReleaseRow.release_id == row.release_id,
            BadReleaseRow.ended_at.is_(None),
        )
    )
    return found.one_or_none() is not None


def _merge_deployment(session: Session, row: DeploymentRow) -> int:
    of_run = (DeploymentRow.dag_id == row.dag_id) & (DeploymentRow.run_id == row.run_id)
    known = session.scalars(select(DeploymentRow).where(of_run).with_for_update()).one_or_none()
    if known is None:
        session.add(DeploymentRow(**_values(row)))
        return 1
    if row.updated_at <= known.updated_at:
        return 0
    for name in _DEPLOYMENT_FIELDS:
        if getattr(row, name) is not None:
            setattr(known, name, getattr(row, name))
    known.progress = {**known.progress, **row.progress}
    known.updated_at = row.updated_at
    return 1


def _merge_message(session: Session, database: Database, row: MessageRow) -> int:
    values, unique = _values(row), ["dag_id", "run_id", "clear_number", "channel", "kind"]
    if database.insert_if_absent(session, MessageRow, values, unique):
        return 1
    conditions = [getattr(MessageRow, name) == getattr(row, name) for name in unique]
    known = session.scalars(select(MessageRow).where(*conditions)).one()
    if row.state == MessageState.DELIVERED and known.state == MessageState.PENDING:
        known.state, known.delivered_at = row.state, row.delivered_at
        return 1
    return 0


def _values(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in inspect(type(row)).column_attrs if column.key != "id"}
