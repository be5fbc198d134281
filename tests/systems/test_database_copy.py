"""A restored copy in a database's place, over a real SSH server, with a real PostgreSQL."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from sebenza_ops.systems import database_copy
from sebenza_ops.systems.database_copy import EXIT_SESSIONS_LEFT, DatabaseCopy
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.errors import FencedOffError, RemoteCommandError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.ssh import Fence, open_session
from tests.hosts.artifact_server import artifact_server, sha256
from tests.postgres_server import BINARIES, PostgresServer
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import changed
from tests.systems.processes import until
from tests.systems.sshd import SshServer

pytestmark = pytest.mark.integration

LOGIN = DatabaseLogin("app", "none")
RESTORED, ASIDE = "shop_rb_20261125100000", "shop_before_20261125100000"


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    found = PostgresServer()
    found.start()
    try:
        execute(found, "postgres", "CREATE ROLE app LOGIN CREATEDB", user="postgres")
        execute(found, "postgres", "CREATE DATABASE shop OWNER app", user="postgres")
        execute(found, "shop", "CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, name text)")
        execute(found, "shop", "INSERT INTO orders (name) VALUES ('old')")
        yield found
    finally:
        found.stop()


def execute(server: PostgresServer, database: str, statement: str, user: str = "app") -> Any:
    with psycopg.connect(host=str(server.directory), dbname=database, user=user, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else None


class Source(ObjectStorage):
    """Where a host fetches the dump from."""

    def __init__(self, source: str) -> None:
        self._source = source

    def transfer_source(self, key: str, method: str = "get_object") -> str:
        return self._source


def test_a_copy_takes_the_place_of_its_database(
    server: PostgresServer, sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_copy, "PATIENCE_SECONDS", 1)
    environment = changed(
        "production", database={"name": "shop", "endpoint": f"{server.directory}:5432"}, ssh_conn_id=SSH_CONNECTION
    )
    argv = [str(BINARIES / "pg_dump"), "--format=custom", "--host", str(server.directory), "-U", "app", "shop"]
    dump = subprocess.run(argv, check=True, capture_output=True).stdout
    execute(server, "shop", "INSERT INTO orders (name) VALUES ('new'), ('newer')")
    host = sshd.host("db1", root_dir=str(tmp_path / "db1"))
    with artifact_server(tmp_path) as web, open_session(host, environment.ssh_conn_id) as session:
        web.files["/backup"] = dump
        copy = DatabaseCopy(environment, session, RESTORED, ASIDE)
        assert copy.status().state == "absent"
        copy.start(LOGIN, Source(web.source("/backup")), "backup", sha256(dump), len(dump))
        until(lambda: copy.status().state != "running", "the restore has ended", 60)
        status = copy.status()
        assert status.state == "done", status.log_tail
        then = copy.describe(LOGIN, RESTORED)
        now = copy.describe(LOGIN, "shop", then.text)
        assert then.oid == status.oid
        assert (then.tables["public.orders"].rows, now.tables["public.orders"].written) == (1, 2)

        fence = Fence("production", 7, "rollback.production/r1")
        with psycopg.connect(host=str(server.directory), dbname="shop", user="postgres"):
            # A superuser's session: the application's role may not end it.
            with pytest.raises(RemoteCommandError) as caught:
                copy.swap(LOGIN, fence, then.oid)
            assert caught.value.exit_status == EXIT_SESSIONS_LEFT
        assert execute(server, "shop", "SELECT count(*) FROM orders") == [(3,)]
        result = copy.swap(LOGIN, fence, then.oid)
        assert (result.state, result.oid) == ("swapped", then.oid)
        assert execute(server, "shop", "SELECT count(*) FROM orders") == [(1,)]
        assert execute(server, ASIDE, "SELECT count(*) FROM orders") == [(3,)]
        assert copy.swap(LOGIN, fence, then.oid).state == "already"
        with pytest.raises(FencedOffError):
            copy.swap(LOGIN, Fence("production", 6, "zombie"), then.oid)
        assert copy.settle(LOGIN, fence) == (True, ())
        copy.discard_files()
        assert copy.status().state == "absent"
