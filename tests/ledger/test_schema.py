from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError

from sebenza_ops.ledger import Holder, Ledger, LedgerError, LedgerSchemaError, LedgerUnavailable
from sebenza_ops.ledger.migrations import VERSION_TABLE
from sebenza_ops.ledger.models import Base
from tests.postgres_server import PostgresServer


def test_migrations_make_exactly_the_models(database_url: str) -> None:
    with Ledger.open(database_url).engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True},
        )
        assert compare_metadata(context, Base.metadata) == []


def test_drift_check_notices_a_missing_column(database_url: str) -> None:
    with Ledger.open(database_url).engine.begin() as connection:
        connection.execute(text("ALTER TABLE deployments DROP COLUMN phase"))
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        differences = compare_metadata(context, Base.metadata)
    assert [(kind, table) for kind, _schema, table, _column in differences] == [("add_column", "deployments")]


def test_migrating_again_changes_nothing(ledger: Ledger) -> None:
    ledger.audit.append("test", "thandi", None, "before")
    assert ledger.migrate() == ledger.migrate()
    assert [entry.subject for entry in ledger.audit.entries()] == ["before"]


def test_unmigrated_ledger_says_what_to_do(empty_database_url: str) -> None:
    with pytest.raises(LedgerSchemaError, match=r"python -m sebenza_ops\.ledger migrate"):
        Ledger.open(empty_database_url).leases.current("production")


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_entries SET actor = 'nobody'",
        "DELETE FROM audit_entries",
    ],
)
def test_database_refuses_to_change_the_audit(ledger: Ledger, change: str) -> None:
    ledger.audit.append("lease.taken_over", "thandi", "production", "INC-7", {"reason": "site down"})
    with pytest.raises(DatabaseError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(text(change))
    assert ledger.audit.entries()[0].actor == "thandi"


def test_postgres_refuses_to_truncate_the_audit(postgres_server: PostgresServer) -> None:
    ledger = Ledger.open(postgres_server.create_schema("ledger_truncate"))
    ledger.migrate()
    with pytest.raises(DatabaseError, match="append-only"), ledger.engine.begin() as connection:
        connection.execute(text("TRUNCATE audit_entries"))


def test_sqlite_keeps_a_write_ahead_log(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    with ledger.engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def test_unreachable_postgres_is_named_without_its_password() -> None:
    ledger = Ledger.open("postgresql://ledger:hunter2@127.0.0.1:1/ledger")
    with pytest.raises(LedgerUnavailable, match=r"127\.0\.0\.1:1/ledger") as error:
        ledger.leases.acquire("production", Holder("d", "r", "a"), "deploy", 60)
    assert "hunter2" not in str(error.value)


def test_unusable_sqlite_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match=f"{tmp_path}.*ops_ledger"):
        Ledger.open(f"sqlite:///{tmp_path}").migrate()


def test_other_databases_are_refused() -> None:
    with pytest.raises(LedgerError, match="sqlite or postgresql, not on 'mysql'"):
        Ledger.open("mysql://localhost/ledger")
