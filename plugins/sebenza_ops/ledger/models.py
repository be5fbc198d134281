"""The ledger's tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import BigInteger, ForeignKey, Index, MetaData, String, Text, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sebenza_ops.ledger.columns import JsonColumn, RowId, UtcDateTime

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

_NOT_ENDED = text("ended_at IS NULL")


class Base(DeclarativeBase):
    """All tables of the ledger."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: JsonColumn}


class FenceRow(Base):
    """The highest fencing token ever given out for an environment; its row lock serializes lease changes."""

    __tablename__ = "fences"

    environment: Mapped[str] = mapped_column(String(100), primary_key=True)
    last_token: Mapped[int] = mapped_column(BigInteger)


class LeaseRow(Base):
    """Every lease ever held; the database itself refuses a second open one."""

    __tablename__ = "leases"
    __table_args__ = (
        UniqueConstraint("environment", "token"),
        Index("ix_leases_open", "environment", unique=True, sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED),
        Index("ix_leases_run", "environment", "dag_id", "run_id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    token: Mapped[int] = mapped_column(BigInteger)
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    purpose: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(20))
    acquired_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(Text)


class ReservationRow(Base):
    """Every reservation; the database itself refuses a second open one."""

    __tablename__ = "reservations"
    __table_args__ = (
        Index("ix_reservations_open", "environment", unique=True, sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    purpose: Mapped[str] = mapped_column(Text)
    reserved_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(Text)


class FreezeRow(Base):
    """Every freeze of an environment; the database itself refuses a second open one."""

    __tablename__ = "freezes"
    __table_args__ = (
        Index("ix_freezes_open", "environment", unique=True, sqlite_where=_NOT_ENDED, postgresql_where=_NOT_ENDED),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    reason: Mapped[str] = mapped_column(Text)
    frozen_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(Text)


class ReleaseRow(Base):
    """Every release that was built."""

    __tablename__ = "releases"

    release_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    version: Mapped[str] = mapped_column(String(100))
    sha: Mapped[str] = mapped_column(String(64), index=True)
    artifact_key: Mapped[str] = mapped_column(Text)
    artifact_sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    node_version: Mapped[str] = mapped_column(String(50))
    schema_revision: Mapped[str] = mapped_column(String(100))
    expand_only: Mapped[bool]
    built_at: Mapped[datetime]
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    manifest: Mapped[dict[str, Any]]


class BadReleaseRow(Base):
    """Releases that an environment has had to leave; an ended row no longer counts."""

    __tablename__ = "bad_releases"
    __table_args__ = (
        Index(
            "ix_bad_releases_open",
            "environment",
            "release_id",
            unique=True,
            sqlite_where=_NOT_ENDED,
            postgresql_where=_NOT_ENDED,
        ),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    release_id: Mapped[str] = mapped_column(String(200))
    reason: Mapped[str] = mapped_column(Text)
    marked_at: Mapped[datetime]
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None] = mapped_column(Text)


class KnownGoodRow(Base):
    """Every release that was verified in an environment; the newest row is the last known good."""

    __tablename__ = "known_good_releases"
    __table_args__ = (Index("ix_known_good_releases_environment", "environment", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    release_id: Mapped[str] = mapped_column(String(200))
    set_at: Mapped[datetime]
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))


class DeploymentRow(Base):
    """One row a deployment run; `progress` is what a killed task needs to go on."""

    __tablename__ = "deployments"
    __table_args__ = (
        UniqueConstraint("dag_id", "run_id"),
        Index("ix_deployments_environment", "environment", "started_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    actor: Mapped[str] = mapped_column(String(250))
    requested_version: Mapped[str] = mapped_column(String(250))
    release_id: Mapped[str | None] = mapped_column(String(200))
    previous_release_id: Mapped[str | None] = mapped_column(String(200))
    strategy: Mapped[str] = mapped_column(String(50))
    from_color: Mapped[str | None] = mapped_column(String(20))
    to_color: Mapped[str | None] = mapped_column(String(20))
    phase: Mapped[str | None] = mapped_column(String(100))
    plan: Mapped[dict[str, Any] | None] = mapped_column(JsonColumn)
    progress: Mapped[dict[str, Any]]
    outcome: Mapped[str | None] = mapped_column(String(30))
    detail: Mapped[str | None] = mapped_column(Text)
    evidence_url: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class AuditRow(Base):
    """Who did what; triggers refuse every change of a row."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index("ix_audit_entries_environment", "environment", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    at: Mapped[datetime]
    action: Mapped[str] = mapped_column(String(100))
    actor: Mapped[str] = mapped_column(String(250))
    environment: Mapped[str | None] = mapped_column(String(100))
    subject: Mapped[str] = mapped_column(Text)
    detail: Mapped[dict[str, Any]]


class EvidenceRow(Base):
    """Facts that runs gathered."""

    __tablename__ = "evidence_entries"
    __table_args__ = (Index("ix_evidence_entries_run", "dag_id", "run_id", "at", "id"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    kind: Mapped[str] = mapped_column(String(100))
    at: Mapped[datetime]
    payload: Mapped[dict[str, Any]]


class MessageRow(Base):
    """The outbox: messages to deliver, at most one by run, clear number, channel and kind."""

    __tablename__ = "messages"
    __table_args__ = (
        UniqueConstraint("dag_id", "run_id", "clear_number", "channel", "kind"),
        Index("ix_messages_due", "state", "next_attempt_at"),
        Index("ix_messages_dedup", "channel", "dedup_key", "id"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    dag_id: Mapped[str] = mapped_column(String(250))
    run_id: Mapped[str] = mapped_column(String(250))
    clear_number: Mapped[int]
    channel: Mapped[str] = mapped_column(String(300))
    kind: Mapped[str] = mapped_column(String(50))
    environment: Mapped[str] = mapped_column(String(100))
    subject: Mapped[str] = mapped_column(Text)
    body: Mapped[str] = mapped_column(Text)
    severity: Mapped[str] = mapped_column(String(20))
    dedup_key: Mapped[str] = mapped_column(String(255))
    conn_id: Mapped[str] = mapped_column(String(250))
    link: Mapped[str | None] = mapped_column(Text)
    details: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    state: Mapped[str] = mapped_column(String(20))
    attempts: Mapped[int]
    next_attempt_at: Mapped[datetime]
    claimed_until: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    last_error: Mapped[str | None] = mapped_column(Text)


class MessageAttemptRow(Base):
    """Every attempt to deliver a message; `error` is None when it was delivered."""

    __tablename__ = "message_attempts"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id"), index=True)
    at: Mapped[datetime]
    error: Mapped[str | None] = mapped_column(Text)


class BackupSetRow(Base):
    """Every backup set that was ever seen in a repository; `gone_at` says since when it no longer is."""

    __tablename__ = "backup_sets"
    __table_args__ = (
        UniqueConstraint("environment", "kind", "label"),
        Index("ix_backup_sets_finished", "environment", "kind", "finished_at"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    environment: Mapped[str] = mapped_column(String(100))
    kind: Mapped[str] = mapped_column(String(20))
    label: Mapped[str] = mapped_column(String(200))
    backup_type: Mapped[str] = mapped_column(String(20))
    based_on: Mapped[str | None] = mapped_column(String(200))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    detail: Mapped[dict[str, Any]]
    dag_id: Mapped[str | None] = mapped_column(String(250))
    run_id: Mapped[str | None] = mapped_column(String(250))
    actor: Mapped[str | None] = mapped_column(String(250))
    verified_at: Mapped[datetime | None]
    bad_since: Mapped[datetime | None]
    bad_reason: Mapped[str | None] = mapped_column(Text)
    restore_tested_at: Mapped[datetime | None]
    gone_at: Mapped[datetime | None]
    gone_reason: Mapped[str | None] = mapped_column(Text)


class RecoveryPointRow(Base):
    """How much of an environment's database would be lost now: the newest answer, one row an environment."""

    __tablename__ = "recovery_points"

    environment: Mapped[str] = mapped_column(String(100), primary_key=True)
    archived_until: Mapped[datetime | None]
    checked_at: Mapped[datetime]
    reason: Mapped[str] = mapped_column(Text)
    objective_seconds: Mapped[int]
    missed_since: Mapped[datetime | None]
    told_at: Mapped[datetime | None]
