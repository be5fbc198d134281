"""What can go wrong in the ledger, in words for the person on call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sebenza_ops.ledger.values import Freeze, Holder, Lease, Reservation


class LedgerError(Exception):
    """Base of every error that the ledger raises by design."""


class LedgerUnavailable(LedgerError):
    """The ledger's database can't be reached or can't be written; nothing was recorded by this call."""


class LedgerSchemaError(LedgerError):
    """The ledger's tables are missing or older or newer than this code."""


class ConnectionInvalid(LedgerError):
    """The Airflow connection of the ledger describes neither SQLite nor PostgreSQL."""


class RecordUnknown(LedgerError):
    """A release, deployment or message that the caller named is not in the ledger."""


class ReleaseConflict(LedgerError):
    """A release id is known with other content: a release is immutable."""


class LeaseHeld(LedgerError):
    """Another run holds the environment's lease. The run that asked has changed nothing."""

    def __init__(self, lease: Lease) -> None:
        self.environment = lease.environment
        self.holder: Holder = lease.holder
        self.lease = lease
        super().__init__(
            f"The lease of {lease.environment} is held by {lease.holder} "
            f"since {lease.acquired_at.isoformat(timespec='seconds')} for: {lease.purpose}; "
            f"it ends by {lease.expires_at.isoformat(timespec='seconds')} unless renewed. Nothing was changed. "
            f"Wait for that run, or hand a stuck lease back with release_lease.{lease.environment}."
        )


class ReservationHeld(LedgerError):
    """Another run has reserved the environment. The run that asked has changed nothing."""

    def __init__(self, reservation: Reservation) -> None:
        self.environment = reservation.environment
        self.holder: Holder = reservation.holder
        self.reservation = reservation
        super().__init__(
            f"{reservation.environment} is reserved by {reservation.holder} "
            f"since {reservation.reserved_at.isoformat(timespec='seconds')} for: {reservation.purpose}; "
            f"until {reservation.expires_at.isoformat(timespec='seconds')}. Nothing was changed. "
            "Wait for that run's decision, or end that run."
        )


class EnvironmentFrozen(LedgerError):
    """The environment refuses changes for now. The run that asked has changed nothing."""

    def __init__(self, freeze: Freeze) -> None:
        self.environment = freeze.environment
        self.freeze = freeze
        super().__init__(
            f"{freeze.environment} is frozen by {freeze.holder.actor} "
            f"since {freeze.frozen_at.isoformat(timespec='seconds')}, "
            f"until {freeze.expires_at.isoformat(timespec='seconds')}: {freeze.reason}. Nothing was changed. "
            f"Wait, or end the freeze with lift_freeze.{freeze.environment}. A rollback is possible."
        )


class LeaseLost(LedgerError):
    """The run no longer holds the lease under its fencing token; it must not change anything more."""

    def __init__(self, environment: str, token: int, why: str, current: Lease | None) -> None:
        self.environment = environment
        self.token = token
        self.current = current
        now_held = (
            f"{current.holder} has it now (fencing token {current.token}, for: {current.purpose})"
            if current
            else "nobody has it now"
        )
        super().__init__(
            f"The lease of {environment} with fencing token {token} is lost: {why}; {now_held}. "
            "This run must not change anything more; clear it to acquire the lease anew, or start a new run."
        )


class RunSuperseded(LedgerError):
    """A run came back after a later change by another run; repeating it would undo that change."""

    def __init__(self, environment: str, holder: Holder, later: Lease) -> None:
        self.environment = environment
        self.holder = holder
        self.later = later
        super().__init__(
            f"{holder} has been superseded: {later.holder} changed {environment} later "
            f"(at {later.acquired_at.isoformat(timespec='seconds')}, for: {later.purpose}). "
            "Nothing was changed. Trigger a new run instead of clearing this one."
        )
