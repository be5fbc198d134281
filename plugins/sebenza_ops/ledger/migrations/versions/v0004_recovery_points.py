"""Recovery points: how much would be lost now, by the newest answer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sebenza_ops.ledger.columns import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "recovery_points",
        sa.Column("environment", sa.String(length=100), nullable=False),
        sa.Column("archived_until", UtcDateTime(), nullable=True),
        sa.Column("checked_at", UtcDateTime(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("objective_seconds", sa.Integer(), nullable=False),
        sa.Column("missed_since", UtcDateTime(), nullable=True),
        sa.Column("told_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("environment", name=op.f("pk_recovery_points")),
    )
