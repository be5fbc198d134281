"""A database host with a repository, as the steps of a restore meet it."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.recovery.point_plan import Ways, ways_of
from sebenza_ops.systems.backup_host import BackupHost
from sebenza_ops.systems.pgbackrest import PgBackRest, RepositorySet
from sebenza_ops.systems.ssh import Fence
from tests.backup.repository_server import RepositoryServer
from tests.systems.processes import until

_numbers = itertools.count(1)


class RestorableServer(RepositoryServer):
    """The server, with its data directory where the inventory says, and a ledger."""

    def __init__(self, ledger_directory: Path) -> None:
        super().__init__()
        database = self.environment.database.model_copy(
            update={"data_dir": "/data", "socket_dir": "/run/postgresql", "state_dir": "/var/lib/sebenza-backup/state"}
        )
        self.environment: Environment = self.environment.model_copy(update={"database": database})
        self.ledger = Ledger.open(f"sqlite:///{ledger_directory}/ledger.db")
        self.ledger.migrate()
        self.token = 100

    @property
    def ways(self) -> Ways:
        """What a plan reads with."""
        return ways_of(self.environment, self.session)

    def run(self, procedure: str = "restore_point_in_time") -> ChangeRun:
        """A run that holds the environment."""
        holder = Holder(f"{procedure}.production", f"manual__{uuid4().hex}", "thandi")
        run = ChangeRun(self.ledger, self.environment, holder, conf={})
        self.token += 1
        run._fence = Fence("production", self.token, f"tests/{next(_numbers)}")
        return run

    def back_up(self) -> RepositorySet:
        """A full set."""
        run, pgbackrest = uuid4().hex, PgBackRest(self.environment, self.session)
        pgbackrest.start_backup(self.fence(), f"{run}-backup", "full", run, from_replica=False)
        until(lambda: pgbackrest.status(f"{run}-backup").state != "running", "the backup has ended", 60)
        made = pgbackrest.info().of_run(run)
        assert made is not None, pgbackrest.output(f"{run}-backup")
        return made

    @property
    def backup_host(self) -> BackupHost:
        """The host as a backup sees it."""
        return BackupHost(self.environment, self.session)

    def write(self, number: int) -> None:
        """One commit."""
        with self.connect() as connection:
            connection.execute("INSERT INTO commits VALUES (%s)", (number,))

    def query(self, statement: str, database: str = "sebenza_logistics") -> Any:
        """The first value."""
        with self.connect(database) as connection:
            row = connection.execute(statement).fetchone()
        return row[0] if row else None

    def now(self) -> datetime:
        """A moment that lies between the commits before and after it."""
        time.sleep(0.01)
        found: datetime = self.query("SELECT clock_timestamp()")
        time.sleep(0.01)
        return found.astimezone(UTC)
