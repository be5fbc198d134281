"""The first schema: leases, reservations, releases, deployments, audit, evidence, outbox."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sebenza_ops.ledger.columns import JsonColumn, RowId, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables, and the triggers that keep the audit append-only."""
    _create_lease_tables()
    _create_release_tables()
    _create_record_tables()
    _create_outbox_tables()
    _keep_audit_append_only()


def _create_lease_tables() -> None:
    op.create_table(
        "fences",
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("last_token", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("environment", name=op.f("pk_fences")),
    )
    op.create_table(
        "leases",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("acquired_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
        sa.UniqueConstraint("environment", "token", name=op.f("uq_leases_environment_token")),
    )
    op.create_index(
        "ix_leases_open",
        "leases",
        ["environment"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_leases_run", "leases", ["environment", "dag_id", "run_id"], unique=False)
    op.create_table(
        "reservations",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("reserved_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index(
        "ix_reservations_open",
        "reservations",
        ["environment"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _create_release_tables() -> None:
    op.create_table(
        "releases",
        sa.Column("release_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("sha", sa.String(length=64), nullable=False),
        sa.Column("artifact_key", sa.Text(), nullable=False),
        sa.Column("artifact_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("node_version", sa.String(length=50), nullable=False),
        sa.Column("schema_revision", sa.String(length=100), nullable=False),
        sa.Column("expand_only", sa.Boolean(), nullable=False),
        sa.Column("built_at", UtcDateTime(), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("manifest", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("release_id", name=op.f("pk_releases")),
    )
    op.create_index(op.f("ix_releases_sha"), "releases", ["sha"], unique=False)
    op.create_table(
        "bad_releases",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("release_id", sa.String(length=200), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("marked_at", UtcDateTime(), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("end_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bad_releases")),
    )
    op.create_index(
        "ix_bad_releases_open",
        "bad_releases",
        ["environment", "release_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "known_good_releases",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("release_id", sa.String(length=200), nullable=False),
        sa.Column("set_at", UtcDateTime(), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_known_good_releases")),
    )
    op.create_index("ix_known_good_releases_environment", "known_good_releases", ["environment", "id"], unique=False)


def _create_record_tables() -> None:
    op.create_table(
        "deployments",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("requested_version", sa.String(length=250), nullable=False),
        sa.Column("release_id", sa.String(length=200), nullable=True),
        sa.Column("previous_release_id", sa.String(length=200), nullable=True),
        sa.Column("strategy", sa.String(length=50), nullable=False),
        sa.Column("from_color", sa.String(length=20), nullable=True),
        sa.Column("to_color", sa.String(length=20), nullable=True),
        sa.Column("phase", sa.String(length=100), nullable=True),
        sa.Column("plan", JsonColumn, nullable=True),
        sa.Column("progress", JsonColumn, nullable=False),
        sa.Column("outcome", sa.String(length=30), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("evidence_url", sa.Text(), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployments")),
        sa.UniqueConstraint("dag_id", "run_id", name=op.f("uq_deployments_dag_id_run_id")),
    )
    op.create_index("ix_deployments_environment", "deployments", ["environment", "started_at"], unique=False)
    op.create_table(
        "audit_entries",
        sa.Column("id", RowId, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("action", sa.String(length=100), nullable=False),
        sa.Column("actor", sa.String(length=250), nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=True),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("detail", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index("ix_audit_entries_environment", "audit_entries", ["environment", "id"], unique=False)
    op.create_table(
        "evidence_entries",
        sa.Column("id", RowId, nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("kind", sa.String(length=100), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("payload", JsonColumn, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evidence_entries")),
    )
    op.create_index("ix_evidence_entries_run", "evidence_entries", ["dag_id", "run_id", "at", "id"], unique=False)


def _create_outbox_tables() -> None:
    op.create_table(
        "messages",
        sa.Column("id", RowId, nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=False),
        sa.Column("run_id", sa.String(length=250), nullable=False),
        sa.Column("clear_number", sa.Integer(), nullable=False),
        sa.Column("channel", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=50), nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("severity", sa.String(length=20), nullable=False),
        sa.Column("dedup_key", sa.String(length=255), nullable=False),
        sa.Column("conn_id", sa.String(length=250), nullable=False),
        sa.Column("link", sa.Text(), nullable=True),
        sa.Column("details", JsonColumn, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=False),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.Column("delivered_at", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint(
            "dag_id",
            "run_id",
            "clear_number",
            "channel",
            "kind",
            name=op.f("uq_messages_dag_id_run_id_clear_number_channel_kind"),
        ),
    )
    op.create_index("ix_messages_dedup", "messages", ["channel", "dedup_key", "id"], unique=False)
    op.create_index("ix_messages_due", "messages", ["state", "next_attempt_at"], unique=False)
    op.create_table(
        "message_attempts",
        sa.Column("id", RowId, nullable=False),
        sa.Column("message_id", RowId, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("fk_message_attempts_message_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_attempts")),
    )
    op.create_index(op.f("ix_message_attempts_message_id"), "message_attempts", ["message_id"], unique=False)


def _keep_audit_append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_entries_no_{change.lower()} BEFORE {change} ON audit_entries "
                "BEGIN SELECT RAISE(ABORT, 'audit_entries is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'audit_entries is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_no_change BEFORE UPDATE OR DELETE ON audit_entries "
        "FOR EACH ROW EXECUTE FUNCTION refuse_audit_change()"
    )
    op.execute(
        "CREATE TRIGGER audit_entries_no_truncate BEFORE TRUNCATE ON audit_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
    )
