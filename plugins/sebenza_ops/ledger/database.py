"""How the ledger talks to its database: engines, transactions, the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, make_url, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from sebenza_ops.ledger.errors import LedgerError, LedgerSchemaError, LedgerUnavailable
from sebenza_ops.ledger.models import Base

Clock = Callable[[], datetime]

BUSY_TIMEOUT_SECONDS = 15
CONNECT_TIMEOUT_SECONDS = 5
_WRITE = "ledger_write"


def open_engine(url: str) -> Engine:
    """Return an engine for a SQLite or PostgreSQL URL.

    No pool: Airflow forks its task processes, and a connection must never be shared over a fork.
    """
    parsed = make_url(url)
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            poolclass=NullPool,
            connect_args={"connect_timeout": CONNECT_TIMEOUT_SECONDS, "application_name": "sebenza_ops_ledger"},
        )
    raise LedgerError(
        f"The ledger runs on sqlite or postgresql, not on {backend!r}: correct the connection ops_ledger."
    )


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    # The driver would begin transactions on its own, and never IMMEDIATE: two writers that have both read
    # can't both go on, and no busy timeout helps them. So we begin ourselves.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


class Database:
    """One engine with read and write transactions and a clock."""

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        self.engine = engine
        self._clock = clock

    @property
    def is_sqlite(self) -> bool:
        """Whether the ledger is a file on this machine."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads."""
        with self._translated_errors(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that writes; committed at the end, rolled back on any error."""
        engine = self.engine.execution_options(**{_WRITE: True})
        with self._translated_errors(), Session(engine, expire_on_commit=False) as session, session.begin():
            yield session

    def now(self, session: Session) -> datetime:
        """Return the time that decides about leases: the database server's, as workers' clocks may differ.

        Not the transaction's start: a transaction that waited for a lock has to see how late it is now.
        """
        if self._clock is not None:
            return self._clock().astimezone(UTC)
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def insert_if_absent(self, session: Session, model: type[Base], values: dict[str, Any], unique: list[str]) -> bool:
        """Insert a row unless its unique columns exist already; say whether it was inserted."""
        insert = (sqlite if self.is_sqlite else postgresql).insert(model).values(**values)
        statement = insert.on_conflict_do_nothing(index_elements=unique).returning(*_keys(model))
        return session.execute(statement).first() is not None

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        place = self.engine.url.render_as_string(hide_password=True)
        try:
            yield
        except (IntegrityError, DataError):
            raise
        # A file that is no database, a server that only reads: all others mean that it can't be used now.
        except (DatabaseError, InterfaceError) as error:
            reason = str(error.orig).strip()
            if "no such table" in reason or "no such column" in reason or isinstance(error, ProgrammingError):
                raise LedgerSchemaError(
                    f"The ledger at {place} lacks this version's tables ({reason}); nothing was recorded. "
                    "Run: python -m sebenza_ops.ledger migrate"
                ) from error
            raise LedgerUnavailable(
                f"The ledger at {place} can't be used: {reason}; nothing was recorded by this call. "
                "Check that the database of the connection ops_ledger is up, reachable and has space."
            ) from error


def _keys(model: type[Base]) -> list[Any]:
    return list(inspect(model).primary_key)
