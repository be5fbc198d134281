"""The ledger: what happened, and who may change what."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, inspect

from sebenza_ops.ledger.audit import Audit
from sebenza_ops.ledger.backup_sets import BackupSets
from sebenza_ops.ledger.connection import DEFAULT_CONNECTION_ID, default_url, ledger_url
from sebenza_ops.ledger.database import Clock, Database, open_engine
from sebenza_ops.ledger.deployments import Deployments
from sebenza_ops.ledger.errors import LedgerUnavailable
from sebenza_ops.ledger.evidence import Evidence
from sebenza_ops.ledger.findings import Findings
from sebenza_ops.ledger.leases import Leases
from sebenza_ops.ledger.models import FenceRow
from sebenza_ops.ledger.outbox import Outbox
from sebenza_ops.ledger.recovery_points import RecoveryPoints
from sebenza_ops.ledger.releases import Releases


class Ledger:
    """The operations database, one repository a subject.

    Cheap to make; opens a connection for each call and keeps none. Every method may raise LedgerUnavailable.

    Args:
        engine: The database's engine.
        clock: Tells the time, in tests; the database's own when None.
        is_journal: It stands in for the ledger of one emergency, see `journal`.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None, *, is_journal: bool = False) -> None:
        database = Database(engine, clock)
        self.database = database
        self.is_journal = is_journal
        self.leases = Leases(database)
        self.releases = Releases(database)
        self.deployments = Deployments(database)
        self.backup_sets = BackupSets(database)
        self.audit = Audit(database)
        self.evidence = Evidence(database)
        self.findings = Findings(database)
        self.recovery_points = RecoveryPoints(database)
        self.outbox = Outbox(database)

    @classmethod
    def open(cls, url: str, clock: Clock | None = None) -> Ledger:
        """Return the ledger at a SQLite or PostgreSQL URL; does not touch the database yet."""
        return cls(open_engine(url), clock)

    @classmethod
    def from_connection(cls, conn_id: str = DEFAULT_CONNECTION_ID) -> Ledger:
        """Return the ledger behind an Airflow connection.

        A new SQLite file that the connection names is set up on the way. The default file is not: Airflow reports
        a connection that it could not ask for as absent, and a fresh, empty ledger in the default place would
        then grant a second lease. `migrate` makes it, once.
        """
        url = ledger_url(conn_id)
        ledger = cls.open(url)
        file = ledger.engine.url.database
        if ledger.engine.dialect.name == "sqlite" and file and url != default_url() and ledger.is_new_file(Path(file)):
            ledger.migrate()
        return ledger

    @property
    def engine(self) -> Engine:
        """The database engine."""
        return self.database.engine

    def migrate(self) -> str:
        """Bring the tables to this version, and return its revision. Safe to call by many processes at once."""
        from sebenza_ops.ledger.migrations import upgrade

        return upgrade(self.database)

    def check(self, environment: str) -> None:
        """Return when the ledger can be read and written now; raise a LedgerError otherwise."""
        self.leases.check(environment)

    def is_new_file(self, file: Path) -> bool:
        """Whether no tables were ever made: SQLite leaves a file where somebody only connected.

        Raises LedgerUnavailable when the file's directory is gone: a disk that is not mounted is no new ledger.
        """
        if not file.parent.is_dir():
            raise LedgerUnavailable(
                f"The ledger {file} can't be used: its directory does not exist; nothing was recorded by this call. "
                "Mount its disk; for a new ledger make the directory."
            )
        if not file.exists():
            return True
        with self.database.reading() as session:
            return not inspect(session.connection()).has_table(FenceRow.__tablename__)
