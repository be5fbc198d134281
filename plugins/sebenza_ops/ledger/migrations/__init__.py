"""The ledger's schema, version by version (Alembic)."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from sebenza_ops.ledger.database import Database

# Not Alembic's default: the ledger may share a PostgreSQL database with Airflow's metadata.
VERSION_TABLE = "ledger_version"
# Any number that nothing else in the database uses; it serializes migrating processes.
_ADVISORY_LOCK = 7_340_021


def upgrade(database: Database) -> str:
    """Bring the tables to the newest revision in one transaction, and return that revision."""
    if database.is_sqlite and database.engine.url.database:
        Path(database.engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    config = _config()
    head = ScriptDirectory.from_config(config).get_current_head()
    assert head is not None, "the package ships at least one migration"
    with database.writing() as session:
        connection = session.connection()
        if not database.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _ADVISORY_LOCK})
        if revision(connection) != head:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return head


def revision(connection: Connection) -> str | None:
    """Return the revision that the tables are at, or None when there are none."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config
