"""Backup sets: the catalog of what is, and was, in the repositories."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sebenza_ops.ledger.columns import JsonColumn, RowId, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "backup_sets",
        sa.Column("id", RowId, nullable=False),
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("label", sa.String(length=200), nullable=False),
        sa.Column("backup_type", sa.String(length=20), nullable=False),
        sa.Column("based_on", sa.String(length=200), nullable=True),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("detail", JsonColumn, nullable=False),
        sa.Column("dag_id", sa.String(length=250), nullable=True),
        sa.Column("run_id", sa.String(length=250), nullable=True),
        sa.Column("actor", sa.String(length=250), nullable=True),
        sa.Column("verified_at", UtcDateTime(), nullable=True),
        sa.Column("bad_since", UtcDateTime(), nullable=True),
        sa.Column("bad_reason", sa.Text(), nullable=True),
        sa.Column("restore_tested_at", UtcDateTime(), nullable=True),
        sa.Column("gone_at", UtcDateTime(), nullable=True),
        sa.Column("gone_reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_backup_sets")),
        sa.UniqueConstraint("environment", "kind", "label", name=op.f("uq_backup_sets_environment_kind_label")),
    )
    op.create_index("ix_backup_sets_finished", "backup_sets", ["environment", "kind", "finished_at"])
