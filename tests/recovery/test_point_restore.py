"""A cluster restored to a moment, from a real repository: what can be reached is known before, and every row is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from sebenza_ops.changes import run_key
from sebenza_ops.recovery.point_plan import bring_up_to_date, choose
from sebenza_ops.recovery.point_target import TargetRefusedError, parse_target
from sebenza_ops.recovery.run_record import JobFailedError, await_job
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import RepositorySet
from sebenza_ops.systems.point_restore import PointReport, PointRestore
from tests.recovery.repository import RestorableServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@dataclass(frozen=True)
class History:
    """What was written when: commits 1 to 3, the moments between them, and the targets of that time."""

    first: RepositorySet
    moment: datetime
    after: datetime
    lsn: str
    xid: str


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestorableServer]:
    server = RestorableServer(tmp_path_factory.mktemp("ledger"))
    server.start()
    try:
        with server.connect() as connection:
            connection.execute("CREATE TABLE commits (number int PRIMARY KEY)")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def history(server: RestorableServer) -> History:
    first = server.back_up()
    server.now()
    with server.connect() as connection:
        # The first second after a set is not counted on.
        connection.execute("SELECT pg_sleep(1.2)")
    server.write(1)
    moment = server.now()
    server.query("SELECT pg_create_restore_point('before the import')")
    lsn = str(server.query("SELECT pg_current_wal_insert_lsn()"))
    with server.connect() as connection, connection.transaction():
        connection.execute("INSERT INTO commits VALUES (2)")
        row = connection.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        xid = str(row[0])
    after = server.now()
    server.write(3)
    server.query("SELECT pg_create_restore_point('twice')")
    server.query("SELECT pg_create_restore_point('twice')")
    bring_up_to_date(server.run(), server.ways, server.run().fence)
    return History(first, moment, after, lsn, xid)


def reached(server: RestorableServer, kind: str, text: str, *, exclusive: bool = False) -> tuple[PointReport, list[int]]:
    """Restore to a target; what was reached, and the commits that are there. The copy is removed."""
    run, target = server.run(), parse_target(kind, text, exclusive=exclusive)
    key = run_key(run.holder)
    chosen, _ = choose(run, server.ways, target, 1, key)
    copy = PointRestore(server.environment, server.session, key)
    copy.start(run.fence, chosen.label, kind, target.setting, 1, 1000, exclusive=exclusive)
    try:
        await_job(copy.status, "the restore", "db1", 100)
        report = copy.report()
        place = {"host": report.socket, "port": 5432, "user": "postgres", "dbname": "sebenza_logistics"}
        rows = server.ways.archive.rows(report.socket)
        listed = server.session.run(
            ["psql", "-XAtq", *(f"--{name}={value}" for name, value in zip(("host", "port", "username", "dbname"), place.values(), strict=True)),
             "-c", "SELECT number FROM commits ORDER BY 1"]
        ).stdout.split()  # fmt: skip
        assert rows.rows["sebenza_logistics"]["public.commits"] == len(listed)
        with pytest.raises(psycopg.Error):
            psycopg.connect(host="127.0.0.1", port=5432, user="postgres", dbname="postgres", connect_timeout=2)
        return report, [int(each) for each in listed]
    finally:
        assert copy.discard(server.run().fence) in {"removed", "absent"}
        assert not Path(copy.restored).exists()


def test_every_kind_of_target_has_exactly_the_rows_of_its_moment(server: RestorableServer, history: History) -> None:
    report, rows = reached(server, "time", history.moment.isoformat())
    assert rows == [1]
    assert report.timeline == 2
    assert "recovery stopping before commit" in report.stopped
    assert report.last_commit_at is not None
    assert report.last_commit_at <= history.moment
    elsewhere = history.after.astimezone(__import__("zoneinfo").ZoneInfo("Asia/Kolkata"))
    assert reached(server, "time", f"{elsewhere:%Y-%m-%d %H:%M:%S.%f} Asia/Kolkata")[1] == [1, 2]
    assert reached(server, "name", "before the import")[1] == [1]
    assert reached(server, "lsn", history.lsn)[1] == [1]
    assert reached(server, "xid", history.xid)[1] == [1, 2]
    assert reached(server, "xid", history.xid, exclusive=True)[1] == [1]
    with server.connect() as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,), "the server itself was touched"
