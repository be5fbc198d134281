"""A drill's copy: restored from the repository with escrowed keys, serving on its own port, and gone afterwards."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from sebenza_ops.systems.drill_instance import DrillInstance, RepositoryKeys
from sebenza_ops.systems.pgbackrest import PgBackRest
from tests.backup.repository_server import CIPHER, KEY, SECRET, LocalSession, RepositoryServer
from tests.postgres_pair import free_port
from tests.systems.processes import until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

GOOD = RepositoryKeys(CIPHER, KEY, SECRET)


@pytest.fixture(scope="module")
def backed_up(server: RepositoryServer) -> int:
    """A set, and WAL after it; the rows of `orders` then."""
    run = uuid4().hex
    pgbackrest = PgBackRest(server.environment, server.session)
    pgbackrest.start_backup(server.fence(), f"{run}-backup", "full", run, from_replica=False)
    until(lambda: pgbackrest.status(f"{run}-backup").state != "running", "the backup has ended", 60)
    with server.connect() as connection:
        connection.execute("CREATE ROLE drill LOGIN PASSWORD 'drill'")
        connection.execute("GRANT SELECT ON orders TO drill")
        connection.execute("INSERT INTO orders VALUES (990, 'after the backup')")
        row = connection.execute("SELECT count(*) FROM orders").fetchone()
        connection.execute("SELECT pg_switch_wal()")
    pgbackrest.check()
    assert row is not None
    return int(str(row[0]))


def instance(server: RepositoryServer) -> tuple[DrillInstance, str]:
    host = server.environment.host("db1").model_copy(update={"address": "127.0.0.1"})
    job = f"{uuid4().hex}-drill"
    return DrillInstance(server.environment, LocalSession(host, server.bin_dir), job), job


def work(server: RepositoryServer, job: str) -> Path:
    return server.root / "var/lib/sebenza-backup" / job


def test_escrowed_keys_open_the_backups_and_the_copy_serves_until_it_is_removed(
    server: RepositoryServer, backed_up: int
) -> None:
    copy, job = instance(server)
    port, client = free_port(), server.environment.host("app4").model_copy(update={"address": "127.0.0.1"})
    assert copy.start(server.fence(), GOOD, port, client, 1000) == "started"
    until(lambda: copy.status().state != "running", "the restore has ended", 90)
    assert copy.status().state == "done", copy.status().log_tail
    assert copy.start(server.fence(), GOOD, port, client, 1000) == "done"
    with psycopg.connect(
        host="127.0.0.1", port=port, user="drill", password="drill", dbname="sebenza_logistics"
    ) as connection:
        assert connection.execute("SELECT count(*), pg_is_in_recovery() FROM orders").fetchone() == (backed_up, False)
        # It must not write into the repository that others restore from.
        assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
    found = copy.restored()
    assert found.restored_bytes > 1_000_000
    with server.connect() as live:
        row = live.execute(
            "SELECT system_identifier::text, extract(epoch FROM now()) FROM pg_control_system()"
        ).fetchone()
    assert row is not None
    assert found.system_identifier == row[0]
    assert 0 <= float(str(row[1])) - found.last_commit_at < 120
    # No key is left on the host.
    for file in work(server, job).glob("*"):
        if file.is_file():
            assert CIPHER.encode() not in file.read_bytes(), file
            assert SECRET.encode() not in file.read_bytes(), file
    assert copy.stop(server.fence()) == "stopped"
    assert not work(server, job).exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(host="127.0.0.1", port=port, user="drill", password="drill", dbname="sebenza_logistics")
    assert copy.stop(server.fence()) == "absent"


def test_another_passphrase_opens_nothing_whatever_the_host_is_configured_with(
    server: RepositoryServer, backed_up: int
) -> None:
    copy, job = instance(server)
    client = server.environment.host("app4").model_copy(update={"address": "127.0.0.1"})
    copy.start(server.fence(), RepositoryKeys("another one", KEY, SECRET), free_port(), client, 1000)
    until(lambda: copy.status().state != "running", "the restore has ended", 90)
    status = copy.status()
    assert status.state == "failed"
    assert "unable to load info file" in status.log_tail, status.log_tail
    assert copy.stop(server.fence()) == "stopped"
    assert not work(server, job).exists()
