"""Column types that behave alike on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC, aware on the way in and on the way out; SQLite keeps it as UTC without an offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a naive time, which would be a guess, and store UTC."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                f"The ledger keeps aware times only, got naive {value.isoformat()}: pass datetime.now(UTC)"
            )
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Read every time back as aware UTC, whatever the session's time zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


JsonColumn: TypeEngine[Any] = JSON().with_variant(JSONB(), "postgresql")
# SQLite numbers rows by itself only in a column declared INTEGER.
RowId: TypeEngine[int] = BigInteger().with_variant(Integer(), "sqlite")
