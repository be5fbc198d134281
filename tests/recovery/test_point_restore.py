"""A cluster restored to a moment from a real repository: what can be reached is known before, every row is right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from sebenza_ops.changes import run_key
from sebenza_ops.recovery.point_plan import bring_up_to_date, choose
from sebenza_ops.recovery.point_target import TargetRefusedError, parse_target
from sebenza_ops.recovery.run_record import JobFailedError, await_job
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import RepositorySet
from sebenza_ops.systems.point_restore import PointReport, PointRestore
from tests.backup.repository_server import CIPHER
from tests.recovery.repository import RestorableServer
from tests.systems.processes import command_line, until

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


def reached(
    server: RestorableServer, kind: str, text: str, *, exclusive: bool = False
) -> tuple[PointReport, list[int]]:
    """Restore to a target; what was reached, and the commits that are there. The copy is removed."""
    run, target = server.run(), parse_target(kind, text, exclusive=exclusive)
    key = run_key(run.holder)
    chosen, _ = choose(run, server.ways, target, 1, key)
    copy = PointRestore(server.environment, server.session, key)
    copy.start(run.fence, chosen.label, kind, target.setting, 1, 1000, exclusive=exclusive)
    try:
        await_job(copy.status, "the restore", "db1", 100)
        report = copy.report()
        rows = server.ways.archive.rows(report.socket)
        place = [f"--host={report.socket}", "--port=5432", "--username=postgres", "--dbname=sebenza_logistics"]
        listed = server.session.run(
            ["psql", "-XAtq", *place, "-c", "SELECT number FROM commits ORDER BY 1"]
        ).stdout.split()
        assert rows.rows["sebenza_logistics"]["public.commits"] == len(listed)
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
    elsewhere = history.after.astimezone(ZoneInfo("Asia/Kolkata"))
    assert reached(server, "time", f"{elsewhere:%Y-%m-%d %H:%M:%S.%f} Asia/Kolkata")[1] == [1, 2]
    assert reached(server, "name", "before the import")[1] == [1]
    assert reached(server, "lsn", history.lsn)[1] == [1]
    assert reached(server, "xid", history.xid)[1] == [1, 2]
    assert reached(server, "xid", history.xid, exclusive=True)[1] == [1]
    with server.connect() as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,), "the server itself was touched"


def refusal(server: RestorableServer, kind: str, text: str) -> str:
    run = server.run()
    with pytest.raises(TargetRefusedError) as refused:
        choose(run, server.ways, parse_target(kind, text), 1, run_key(run.holder))
    return str(refused.value)


def test_what_cannot_be_reached_is_refused_with_what_can(server: RestorableServer, history: History) -> None:
    early = refusal(server, "time", (history.first.started_at - timedelta(hours=1)).isoformat())
    assert "before the end of the oldest set. Nothing was started. Reachable: " in early
    assert f"({history.first.lsn_stop}) to " in early
    assert "in the future" in refusal(server, "time", (datetime.now(UTC) + timedelta(hours=1)).isoformat())
    late = refusal(server, "time", server.now().isoformat())
    assert f"can't be reached from {history.first.label}: its archived WAL ends before" in late
    unknown = refusal(server, "name", "before the party")
    assert "is not in the archived WAL; restore points there: " in unknown
    assert "before the import" in unknown
    assert "is ambiguous, there are 2: " in refusal(server, "name", "twice")
    assert "can't be reached" in refusal(server, "lsn", "FF/0")
    assert "before the end of the oldest set" in refusal(server, "lsn", "0/1000000")
    assert "has not ended in the archived WAL" in refusal(server, "xid", "4000000000")


def test_a_missing_wal_segment_bounds_what_can_be_reached(server: RestorableServer, history: History) -> None:
    run = server.run()
    bring_up_to_date(run, server.ways, run.fence)
    server.write(4)
    lost = server.now()
    server.write(5)
    bring_up_to_date(run, server.ways, run.fence)
    server.write(6)
    bring_up_to_date(run, server.ways, run.fence)
    segments = sorted(server.ways.archive.listing().segments)
    (file,) = list((server.repository / "archive/main").rglob(f"{segments[-2]}-*"))
    with server.changed(file, None):
        refused = refusal(server, "time", lost.isoformat())
        assert f"WAL segment {segments[-2]} is missing" in refused
        # What lies before the gap can still be reached.
        chosen, _ = choose(run, server.ways, parse_target("time", history.moment.isoformat()), 1, run_key(run.holder))
        assert chosen.label == history.first.label


@pytest.mark.long
def test_a_full_disk_a_damaged_set_and_a_wrong_key_leave_nothing(server: RestorableServer, history: History) -> None:
    target = parse_target("time", history.moment.isoformat())

    def failed(need_bytes: int) -> str:
        run = server.run()
        copy = PointRestore(server.environment, server.session, run_key(run.holder))
        copy.start(run.fence, history.first.label, "time", target.setting, 1, need_bytes)
        with pytest.raises(JobFailedError) as error:
            await_job(copy.status, "the restore", "db1", 100)
        assert not Path(copy.restored).exists()
        return str(error.value)

    assert "disk full" in failed(10**15)
    bundle = next((server.repository / "backup/main" / history.first.label / "bundle").iterdir())
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with server.changed(bundle, bytes(content)):
        assert "ERROR: [" in failed(1000)
    right = server.config_file.read_text()
    server.config_file.write_text(right.replace(CIPHER, "another passphrase"))
    try:
        with pytest.raises(NoDataError, match="is the passphrase the one it was made with"):
            choose(server.run(), server.ways, target, 1, "0" * 32)
    finally:
        server.config_file.write_text(right)


def test_a_restore_that_works_is_ended_and_removed(server: RestorableServer, history: History) -> None:
    run, target = server.run(), parse_target("time", history.moment.isoformat())
    copy = PointRestore(server.environment, server.session, run_key(run.holder))
    copy.start(run.fence, history.first.label, "time", target.setting, 1, 1000)
    until(lambda: (Path(copy.restored) / "pg_wal").exists() or copy.status().state != "running", "files come", 30)
    assert copy.status().state == "running", "it has ended before it could be ended"
    assert copy.discard(run.fence) in {"removed", "absent"}
    assert copy.status().state == "failed"
    assert not Path(copy.restored).exists()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if copy.restored in command_line(int(pid.name))]
