"""A private PostgreSQL 15 for tests: a fresh cluster on a Unix socket, or on a loopback port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from sqlalchemy import URL, create_engine, text

BINARIES = Path("/usr/lib/postgresql/15/bin")


class PostgresServer:
    """A running server; without a port it listens on no network address, so it can't collide with anything.

    Args:
        port: Of the loopback interface, for clients that want a host and a port.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        # A short path: the socket's must fit into 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="sebenza-pg-"))
        self._data = self.directory / "data"
        self._account = _account()
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)

    def start(self) -> None:
        """Create the cluster and wait until it answers."""
        self._run("initdb", "--pgdata", str(self._data), "--auth", "trust", "--username", "postgres", "--no-sync")
        # Durability is not what these tests are about, and fsync would cost most of their time.
        # The time zone is one in which a naive time would be wrong by hours and a half.
        options = (
            f"-c listen_addresses='{'127.0.0.1' if self.port else ''}' -c port={self.port or 5432} "
            f"-c unix_socket_directories='{self.directory}' "
            "-c fsync=off -c timezone=Asia/Kolkata"
        )
        log = str(self.directory / "server.log")
        self._run("pg_ctl", "start", "--wait", "--pgdata", str(self._data), "--log", log, "--options", options)

    def stop(self) -> None:
        """Stop the server and delete its files."""
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", str(self._data))
        shutil.rmtree(self.directory)

    def create_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        self._execute(f'CREATE DATABASE "{name}"')
        return self._url(name)

    def create_schema(self, name: str) -> str:
        """Create an empty schema and return a URL for which it is all there is: far cheaper than a database."""
        self._execute(f'CREATE SCHEMA "{name}"')
        return self._url("postgres", {"options": f"-csearch_path={name}"})

    def _execute(self, statement: str) -> None:
        engine = create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _url(self, database: str, options: dict[str, str] | None = None) -> str:
        query = {"host": str(self.directory), "port": str(self.port or 5432), **(options or {})}
        return URL.create("postgresql+psycopg", "postgres", database=database, query=query).render_as_string()

    def _run(self, program: str, *arguments: str) -> None:
        account = self._account
        subprocess.run(
            [str(BINARIES / program), *arguments],
            check=True,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )


def _account() -> pwd.struct_passwd | None:
    """Return whom to become, because PostgreSQL refuses to run as root; None to stay who we are."""
    return pwd.getpwnam("postgres") if os.geteuid() == 0 else None
