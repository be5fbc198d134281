"""What happened: the operations database behind the Airflow connection `ops_ledger`."""

from sebenza_ops.ledger.backup_sets import BackupKind, BackupSet, BackupSets, Reconciliation
from sebenza_ops.ledger.deployments import UNSETTLED
from sebenza_ops.ledger.errors import (
    ConnectionInvalid,
    EnvironmentFrozen,
    LeaseHeld,
    LeaseLost,
    LedgerError,
    LedgerSchemaError,
    LedgerUnavailable,
    RecordUnknown,
    ReleaseConflict,
    ReservationHeld,
    RunSuperseded,
)
from sebenza_ops.ledger.housekeeping import past_housekeeping
from sebenza_ops.ledger.journal import TOKEN_GAP, find_journal, ledger_or_journal
from sebenza_ops.ledger.masking import mask_object, mask_text
from sebenza_ops.ledger.reconcile import reconcile_pending
from sebenza_ops.ledger.recovery_points import KnownPoint
from sebenza_ops.ledger.store import Ledger
from sebenza_ops.ledger.values import (
    AuditEntry,
    BadRelease,
    Deployment,
    EvidenceEntry,
    Freeze,
    Holder,
    LastKnownGood,
    Lease,
    LeaseKind,
    Message,
    MessageState,
    OutboxMessage,
    Outcome,
    Release,
    Reservation,
)

__all__ = [
    "TOKEN_GAP",
    "UNSETTLED",
    "AuditEntry",
    "BackupKind",
    "BackupSet",
    "BackupSets",
    "BadRelease",
    "ConnectionInvalid",
    "Deployment",
    "EnvironmentFrozen",
    "EvidenceEntry",
    "Freeze",
    "Holder",
    "KnownPoint",
    "LastKnownGood",
    "Lease",
    "LeaseHeld",
    "LeaseKind",
    "LeaseLost",
    "Ledger",
    "LedgerError",
    "LedgerSchemaError",
    "LedgerUnavailable",
    "Message",
    "MessageState",
    "OutboxMessage",
    "Outcome",
    "Reconciliation",
    "RecordUnknown",
    "Release",
    "ReleaseConflict",
    "Reservation",
    "ReservationHeld",
    "RunSuperseded",
    "find_journal",
    "ledger_or_journal",
    "mask_object",
    "mask_text",
    "past_housekeeping",
    "reconcile_pending",
]
