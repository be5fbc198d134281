"""The ledger's values: immutable, detached from the database, every time in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

JsonObject = dict[str, Any]


class LeaseKind(StrEnum):
    """What holding the lease means for older runs: a `change` supersedes them, `housekeeping` does not."""

    CHANGE = "change"
    HOUSEKEEPING = "housekeeping"


class Outcome(StrEnum):
    """How a deployment ended."""

    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    REFUSED = "refused"
    REJECTED = "rejected"
    PLANNED = "planned"
    SPLIT = "split"


class MessageState(StrEnum):
    """Where a message is: to be sent, sent, or given up after its last attempt."""

    PENDING = "pending"
    DELIVERED = "delivered"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class Holder:
    """The run that holds or did something, and the person or system that started it."""

    dag_id: str
    run_id: str
    actor: str

    def is_run(self, other: Holder) -> bool:
        """Whether both name the same run, whoever acts for it."""
        return (self.dag_id, self.run_id) == (other.dag_id, other.run_id)

    def __str__(self) -> str:
        return f"{self.dag_id} (run {self.run_id}, started by {self.actor})"


@dataclass(frozen=True, slots=True)
class Lease:
    """A named, owned, expiring lock on an environment, with its fencing token."""

    environment: str
    token: int
    holder: Holder
    purpose: str
    kind: LeaseKind
    acquired_at: datetime
    expires_at: datetime
    ended_at: datetime | None = None
    end_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reservation:
    """An environment announced for a change while gates run and people decide."""

    environment: str
    holder: Holder
    purpose: str
    reserved_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Freeze:
    """An environment that refuses changes until `expires_at`."""

    environment: str
    holder: Holder
    reason: str
    frozen_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Release:
    """An immutable artifact; `artifact_key` is its place in the object store."""

    release_id: str
    version: str
    sha: str
    artifact_key: str
    artifact_sha256: str
    size_bytes: int
    node_version: str
    schema_revision: str
    expand_only: bool
    built_at: datetime
    built_by: Holder
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRelease:
    """A release that an environment has had to leave, and why."""

    environment: str
    release_id: str
    reason: str
    marked_at: datetime
    marked_by: Holder


@dataclass(frozen=True, slots=True)
class LastKnownGood:
    """The newest release that an environment has run and verified."""

    environment: str
    release_id: str
    set_at: datetime
    set_by: Holder


@dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment run; `outcome` and `finished_at` are None while it runs."""

    environment: str
    holder: Holder
    requested_version: str
    release_id: str | None
    previous_release_id: str | None
    strategy: str
    from_color: str | None
    to_color: str | None
    phase: str | None
    plan: Mapping[str, Any] | None
    progress: Mapping[str, Any]
    outcome: Outcome | None
    detail: str | None
    evidence_url: str | None
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what to what, when."""

    id: int
    at: datetime
    action: str
    actor: str
    environment: str | None
    subject: str
    detail: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EvidenceEntry:
    """One fact that a run gathered."""

    id: int
    dag_id: str
    run_id: str
    kind: str
    at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """Something to tell somebody over one channel; unique by run, clear number, channel and kind.

    `channel` is `<type>:<target>`, for example `slack:#alerts-critical`; `conn_id` is the Airflow connection
    that reaches it.
    """

    dag_id: str
    run_id: str
    clear_number: int
    channel: str
    kind: str
    environment: str
    subject: str
    body: str
    severity: str
    dedup_key: str
    conn_id: str = ""
    link: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message with what has become of it."""

    id: int
    message: Message
    state: MessageState
    attempts: int
    created_at: datetime
    next_attempt_at: datetime
    delivered_at: datetime | None
    last_error: str | None
