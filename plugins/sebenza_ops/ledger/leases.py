"""Leases with fencing tokens: one change at a time in an environment.

Every change of an environment's lease first locks its row in `fences` (on SQLite: the whole database, by
BEGIN IMMEDIATE), so that of two runs that ask at once exactly one wins. A unique index on open leases says
the same a second time. Leases expire by time: an expired one never blocks, and nothing has to clean it up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from sebenza_ops.ledger.audit import write_audit
from sebenza_ops.ledger.database import Database
from sebenza_ops.ledger.errors import EnvironmentFrozen, LeaseHeld, LeaseLost, ReservationHeld, RunSuperseded
from sebenza_ops.ledger.freezes import lift_freeze, live_freeze, place_freeze
from sebenza_ops.ledger.models import FenceRow, LeaseRow
from sebenza_ops.ledger.reservations import (
    end_reservation,
    live_reservation,
    place_reservation,
    reservation_value,
    reserved_by,
)
from sebenza_ops.ledger.values import Freeze, Holder, Lease, LeaseKind, Reservation


class Leases:
    """Leases and reservations of all environments."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(
        self,
        environment: str,
        holder: Holder,
        purpose: str,
        ttl_seconds: float,
        minimum_token: int = 0,
        *,
        kind: LeaseKind = LeaseKind.CHANGE,
        respect_reservation: bool = False,
        respect_freeze: bool = False,
    ) -> Lease:
        """Take the environment's lease; a run that holds it already gets the same one, renewed.

        The token is higher than every earlier one of the environment and than `minimum_token`, the highest
        that its hosts have seen (they may know more than a ledger restored from a backup). A reservation of
        the same run ends, as the lease takes its place.

        Raises LeaseHeld when another run holds the lease, ReservationHeld when `respect_reservation` is set
        and another run has reserved the environment, EnvironmentFrozen when `respect_freeze` is set and the
        environment is frozen, and RunSuperseded when the run comes back for a change after another run's later
        change. Nothing is changed then. A run that holds the lease is past the freeze: it must be able to end well.
        """
        with self._locked(environment) as (session, fence, now):
            if kind is LeaseKind.CHANGE:
                _refuse_superseded(session, environment, holder)
            mine = _own_or_free(session, environment, holder, now)
            if mine is not None and mine.token > minimum_token:
                mine.expires_at = now + timedelta(seconds=ttl_seconds)
                return _lease(mine)
            if mine is not None:
                _end(session, mine, now, f"the hosts have seen fencing token {minimum_token}", holder.actor)
            freeze = live_freeze(session, environment, now) if respect_freeze and mine is None else None
            if freeze is not None:
                raise EnvironmentFrozen(freeze)
            # A run that holds the lease is past others' reservations as well.
            reservation = live_reservation(session, environment, now) if mine is None else None
            if respect_reservation and reservation is not None and not reserved_by(reservation).is_run(holder):
                raise ReservationHeld(reservation_value(reservation))
            row = _issue(session, fence, holder, purpose, kind, ttl_seconds, minimum_token, now)
            end_reservation(session, environment, holder, f"lease acquired (token {row.token})", holder.actor, now)
            return _lease(row)

    def renew(self, environment: str, token: int, ttl_seconds: float) -> Lease:
        """Prolong the lease to `ttl_seconds` from now.

        Raises LeaseLost when it was released, taken over or has expired, even if nobody took it since: in
        between, anybody might have. The run that wants it back acquires it, under a new token.
        """
        with self._locked(environment) as (session, _fence, now):
            row = _held(session, environment, token, now)
            row.expires_at = now + timedelta(seconds=ttl_seconds)
            return _lease(row)

    def extend_until(self, environment: str, token: int, expires_at: datetime) -> Lease:
        """Let the lease end at a given time, for a wait in which nothing of the run can renew it.

        Raises LeaseLost as `renew` does, ValueError for a naive time.
        """
        if expires_at.tzinfo is None:
            raise ValueError(f"expires_at has no time zone: {expires_at.isoformat()}")
        with self._locked(environment) as (session, _fence, now):
            row = _held(session, environment, token, now)
            row.expires_at = expires_at
            return _lease(row)

    def release(self, environment: str, token: int, reason: str, actor: str | None = None) -> bool:
        """Give the lease back; say whether it was still open. Releasing twice does nothing.

        `actor` is who hands a stuck lease back for its holder; the holder's own when None.
        """
        with self._locked(environment) as (session, _fence, now):
            row = _by_token(session, environment, token)
            if row is None or row.ended_at is not None:
                return False
            _end(session, row, now, reason, actor or row.actor)
            return True

    def take_over(
        self,
        environment: str,
        holder: Holder,
        reason: str,
        ttl_seconds: float,
        minimum_token: int = 0,
        *,
        purpose: str | None = None,
    ) -> Lease:
        """Take the lease at once, whoever holds it: for emergency procedures and admins, audited.

        The former holder's next renewal raises LeaseLost, and its changes are refused by the hosts' fences.
        Raises RunSuperseded when the taking run is itself an old one.
        """
        with self._locked(environment) as (session, fence, now):
            _refuse_superseded(session, environment, holder)
            open_row = _open_row(session, environment)
            former = None
            if open_row is not None:
                former = _holder(open_row)
                if former.is_run(holder) and open_row.expires_at > now and open_row.token > minimum_token:
                    open_row.expires_at = now + timedelta(seconds=ttl_seconds)
                    return _lease(open_row)
                if open_row.expires_at > now:
                    _end(session, open_row, now, f"taken over by {holder}: {reason}", holder.actor)
                else:
                    _end(session, open_row, open_row.expires_at, "expired", open_row.actor)
            row = _issue(session, fence, holder, purpose or reason, LeaseKind.CHANGE, ttl_seconds, minimum_token, now)
            detail = {"reason": reason, "fencing_token": row.token, "former_holder": str(former) if former else None}
            write_audit(session, now, "lease.taken_over", holder.actor, environment, str(holder), detail)
            return _lease(row)

    def current(self, environment: str) -> Lease | None:
        """Return the lease that is held now, or None."""
        with self._database.reading() as session:
            row = _open_row(session, environment)
            return _lease(row) if row is not None and row.expires_at > self._database.now(session) else None

    def history(self, environment: str, limit: int = 50) -> list[Lease]:
        """Return the environment's leases, the newest first."""
        query = select(LeaseRow).where(LeaseRow.environment == environment).order_by(LeaseRow.token.desc()).limit(limit)
        with self._database.reading() as session:
            return [_lease(row) for row in session.scalars(query)]

    def superseded_by(self, environment: str, holder: Holder) -> Lease | None:
        """Return the first change by another run after this run's first lease, or None."""
        with self._database.reading() as session:
            row = _superseding(session, environment, holder)
            return _lease(row) if row is not None else None

    def reserve(self, environment: str, holder: Holder, purpose: str, ttl_seconds: float) -> Reservation:
        """Announce a coming change; a run's own reservation is prolonged.

        Housekeeping goes on under a reservation. Raises ReservationHeld for another run's reservation,
        LeaseHeld while another run changes the environment, RunSuperseded for an old run that came back.
        """
        with self._locked(environment) as (session, _fence, now):
            _refuse_superseded(session, environment, holder)
            held = _open_row(session, environment)
            if (
                held is not None
                and held.expires_at > now
                and held.kind == LeaseKind.CHANGE
                and not _holder(held).is_run(holder)
            ):
                raise LeaseHeld(_lease(held))
            return reservation_value(place_reservation(session, environment, holder, purpose, ttl_seconds, now))

    def release_reservation(self, environment: str, holder: Holder, reason: str) -> bool:
        """End the run's reservation; say whether one was open. Ending it twice does nothing."""
        with self._locked(environment) as (session, _fence, now):
            return end_reservation(session, environment, holder, reason, holder.actor, now)

    def clear_reservation(self, environment: str, actor: str, reason: str) -> bool:
        """End anybody's reservation, for an admin; audited. Say whether one was open."""
        with self._locked(environment) as (session, _fence, now):
            return end_reservation(session, environment, None, reason, actor, now)

    def current_reservation(self, environment: str) -> Reservation | None:
        """Return the reservation that counts now, or None."""
        with self._database.reading() as session:
            row = live_reservation(session, environment, self._database.now(session))
            return reservation_value(row) if row is not None else None

    def freeze(self, environment: str, holder: Holder, reason: str, expires_at: datetime) -> Freeze:
        """Refuse changes of the environment until a given time; an earlier freeze is replaced. Audited.

        A run that holds the lease goes on to its end. Raises ValueError for a time that is naive or over.
        """
        if expires_at.tzinfo is None:
            raise ValueError(f"expires_at has no time zone: {expires_at.isoformat()}")
        with self._locked(environment) as (session, _fence, now):
            if expires_at <= now:
                raise ValueError(f"the freeze would end in the past: {expires_at.isoformat(timespec='seconds')}")
            return place_freeze(session, environment, holder, reason, expires_at, now)

    def lift_freeze(self, environment: str, reason: str, actor: str) -> Freeze | None:
        """End the environment's freeze, audited; return it, or None when there was none."""
        with self._locked(environment) as (session, _fence, now):
            return lift_freeze(session, environment, reason, actor, now)

    def current_freeze(self, environment: str) -> Freeze | None:
        """Return the freeze that counts now, or None."""
        with self._database.reading() as session:
            return live_freeze(session, environment, self._database.now(session))

    def check(self, environment: str) -> None:
        """Write the environment's fence as it is: proves that leases can be had now. Raises LedgerUnavailable."""
        with self._locked(environment) as (session, _fence, _now):
            own = FenceRow.environment == environment
            session.execute(update(FenceRow).where(own).values(last_token=FenceRow.last_token))

    @contextmanager
    def _locked(self, environment: str) -> Iterator[tuple[Session, FenceRow, datetime]]:
        with self._database.writing() as session:
            self._database.insert_if_absent(
                session, FenceRow, {"environment": environment, "last_token": 0}, ["environment"]
            )
            fence = session.scalars(select(FenceRow).where(FenceRow.environment == environment).with_for_update()).one()
            yield session, fence, self._database.now(session)


def _own_or_free(session: Session, environment: str, holder: Holder, now: datetime) -> LeaseRow | None:
    """Return the run's own live lease, or None when the lease is free; raise LeaseHeld otherwise."""
    row = _open_row(session, environment)
    if row is None:
        return None
    if row.expires_at <= now:
        _end(session, row, row.expires_at, "expired", row.actor)
        return None
    if not _holder(row).is_run(holder):
        raise LeaseHeld(_lease(row))
    return row


def _issue(
    session: Session,
    fence: FenceRow,
    holder: Holder,
    purpose: str,
    kind: LeaseKind,
    ttl_seconds: float,
    minimum_token: int,
    now: datetime,
) -> LeaseRow:
    fence.last_token = max(fence.last_token, minimum_token) + 1
    row = LeaseRow(
        environment=fence.environment,
        token=fence.last_token,
        dag_id=holder.dag_id,
        run_id=holder.run_id,
        actor=holder.actor,
        purpose=purpose,
        kind=kind.value,
        acquired_at=now,
        expires_at=now + timedelta(seconds=ttl_seconds),
    )
    session.add(row)
    detail = {"fencing_token": row.token, "purpose": purpose, "ttl_seconds": ttl_seconds}
    write_audit(session, now, "lease.acquired", holder.actor, fence.environment, str(holder), detail)
    return row


def _end(session: Session, row: LeaseRow, at: datetime, reason: str, actor: str) -> None:
    row.ended_at, row.end_reason = at, reason
    # The index on open leases must see the end before the next lease is inserted.
    session.flush()
    detail = {"fencing_token": row.token, "reason": reason}
    write_audit(session, at, "lease.ended", actor, row.environment, str(_holder(row)), detail)


def _held(session: Session, environment: str, token: int, now: datetime) -> LeaseRow:
    row = _by_token(session, environment, token)
    if row is not None and row.ended_at is None and row.expires_at > now:
        return row
    if row is None:
        why = "the ledger has no such lease"
    elif row.ended_at is not None:
        why = f"it ended at {row.ended_at.isoformat(timespec='seconds')} ({row.end_reason})"
    else:
        why = f"it expired at {row.expires_at.isoformat(timespec='seconds')}"
    other = _open_row(session, environment)
    current = _lease(other) if other is not None and other.expires_at > now else None
    raise LeaseLost(environment, token, why, current)


def _refuse_superseded(session: Session, environment: str, holder: Holder) -> None:
    later = _superseding(session, environment, holder)
    if later is not None:
        raise RunSuperseded(environment, holder, _lease(later))


def _superseding(session: Session, environment: str, holder: Holder) -> LeaseRow | None:
    of_run = (LeaseRow.dag_id == holder.dag_id) & (LeaseRow.run_id == holder.run_id)
    first_token = session.scalar(
        select(LeaseRow.token).where(LeaseRow.environment == environment, of_run).order_by(LeaseRow.token).limit(1)
    )
    if first_token is None:
        return None
    return session.scalars(
        select(LeaseRow)
        .where(
            LeaseRow.environment == environment,
            LeaseRow.token > first_token,
            LeaseRow.kind == LeaseKind.CHANGE.value,
            ~of_run,
        )
        .order_by(LeaseRow.token)
        .limit(1)
    ).one_or_none()


def _open_row(session: Session, environment: str) -> LeaseRow | None:
    return session.scalars(
        select(LeaseRow).where(LeaseRow.environment == environment, LeaseRow.ended_at.is_(None))
    ).one_or_none()


def _by_token(session: Session, environment: str, token: int) -> LeaseRow | None:
    return session.scalars(
        select(LeaseRow).where(LeaseRow.environment == environment, LeaseRow.token == token)
    ).one_or_none()


def _holder(row: LeaseRow) -> Holder:
    return Holder(row.dag_id, row.run_id, row.actor)


def _lease(row: LeaseRow) -> Lease:
    return Lease(
        environment=row.environment,
        token=row.token,
        holder=_holder(row),
        purpose=row.purpose,
        kind=LeaseKind(row.kind),
        acquired_at=row.acquired_at,
        expires_at=row.expires_at,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
    )
