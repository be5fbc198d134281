"""From primary to replica and back, by the host scripts on a real pair of PostgreSQL servers."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from lab.waiting import scaled
from sebenza_ops.systems.database_server import (
    ServerState,
    lsn_text,
    parse_rebuild_status,
    parse_wal_end,
    segment_name,
)
from tests.postgres_pair import BIN, PASSWORD, ROLE, Server, postgres_pair, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture
def pair() -> Iterator[tuple[Server, Server]]:
    with postgres_pair() as servers:
        yield servers


def demote(server: Server, source: Server) -> None:
    place = [server.data, "127.0.0.1", source.port, ROLE, f"{server.name}_slot"]
    server.fenced("database_demote", *place, stdin=f"{PASSWORD}\n")


def promote(
    server: Server, before: ServerState, minimum: int, follower: str, *, expires: int = 0
) -> subprocess.CompletedProcess[str]:
    given = [before.system_identifier, before.timeline, minimum, f"{follower}_slot", expires or int(time.time()) + 15]
    return server.run("database_promote", server.state_dir, "production", 5, "run/1", *server.place, *given, 30)


def insert(server: Server, *ids: int) -> None:
    with server.connect() as connection:
        for number in ids:
            connection.execute("INSERT INTO orders VALUES (%s)", (number,))


def rows(server: Server) -> int:
    return int(server.query("SELECT count(*) FROM orders"))


def rebuild(server: Server, source: Server, before: ServerState, expected: str) -> dict[str, str]:
    source.fenced("database_checkpoint", *source.place, ROLE, f"{server.name}_slot")
    given = ["job1", BIN, server.data, server.root / "postgresql.conf", "127.0.0.1", source.port, ROLE]
    given += [f"{server.name}_slot", segment_name(before.timeline, before.lsn), 1, "rewind", 60]
    said = server.fenced("database_rebuild", *given, stdin=f"{PASSWORD}\n").stdout.strip()
    assert said == "started"

    def status() -> str:
        return server.run("dump_status", server.state_dir / "jobs", "job1").stdout

    until(lambda: not status().startswith("running"), "the rebuild has ended")
    text = status()
    assert parse_rebuild_status(text, "db1").state == "done", text
    found: dict[str, str] = json.loads(text.partition("\n")[2])
    assert found["method"] == expected, (server.state_dir / "jobs/job1/log").read_text()
    return found


def test_a_planned_switch_there_and_back_loses_nothing(pair: tuple[Server, Server]) -> None:
    db1, db2 = pair
    insert(db1, 1, 2)
    for old, new in ((db1, db2), (db2, db1)):
        before, replica = old.state(), new.state()
        assert (before.is_primary, replica.is_streaming, before.clients) == (True, True, 0)
        assert before.senders[0].slot == f"{new.name}_slot"
        assert before.system_identifier == replica.system_identifier
        demote(old, new)
        # What runs is not touched.
        insert(old, 10 + old.port)
        said = old.fenced("database_stop", BIN, old.data, old.socket, old.port, 1000, 20).stdout.split()
        down = old.state()
        assert said == ["0", "stopped", lsn_text(down.checkpoint_lsn)]
        assert (down.running, down.control_state, down.has_signal) == ("no", "shut down", True)
        # It has replayed the record with which the old one has ended.
        until(lambda new=new, down=down: new.state().lsn > down.checkpoint_lsn, "the replica has all of it")
        # Whoever starts it: it comes back as a replica, at the very same position.
        old.start()
        assert (old.state().is_standby, old.state().lsn) == (True, new.state().lsn)
        position = lsn_text(old.state().lsn)
        done = promote(new, replica, down.checkpoint_lsn + 1, old.name)
        assert done.stdout.split() == ["promoted", str(before.timeline + 1), position], done.stderr
        again = promote(new, replica, down.checkpoint_lsn + 1, old.name)
        assert again.stdout.split() == ["already", str(before.timeline + 1), "-"]
        until(lambda old=old: old.state().is_streaming, "the old primary follows")
        assert old.fenced("database_slot_drop", *old.place, f"{new.name}_slot").stdout.strip() == "dropped"
        assert new.fenced("database_slot_drop", *new.place, f"{old.name}_slot").stdout.strip() == "active"
        insert(new, 20 + new.port)
        until(lambda old=old, new=new: rows(old) == rows(new), "both have the same rows")
    assert rows(db1) == 6
    assert db1.state().timeline == 3


def test_a_standby_of_another_site_that_hangs_holds_up_no_switch(pair: tuple[Server, Server], tmp_path: Path) -> None:
    db1, db2 = pair
    tmp_path.chmod(0o755)
    command = [f"{BIN}/pg_receivewal", "-D", str(tmp_path), "-h", "127.0.0.1", "-p", str(db1.port), "-U", ROLE]
    elsewhere = subprocess.Popen(command, env={"PGPASSWORD": PASSWORD}, stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(db1.state().senders) == 2, "somebody without a slot streams as well")
        elsewhere.send_signal(signal.SIGSTOP)
        insert(db1, 1)
        demote(db1, db2)
        said = db1.fenced("database_stop", BIN, db1.data, db1.socket, db1.port, 1000, 30).stdout.split()
        # PostgreSQL waits for whoever streams until wal_sender_timeout, a minute by default: that is later.
        assert said[1] == "stopped"
        down = db1.state()
        until(lambda: db2.state().lsn > down.checkpoint_lsn, "its own replica has all of it")
    finally:
        elsewhere.kill()
        elsewhere.wait()


def test_sessions_end_as_they_become_idle_and_what_runs_may_end_first(pair: tuple[Server, Server]) -> None:
    db1, db2 = pair
    idle = db1.connect()
    done: list[object] = []

    def work() -> None:
        with db1.connect() as connection:
            connection.execute("INSERT INTO orders SELECT 7 FROM (SELECT pg_sleep(0.4)) AS s")
            done.append("committed")

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: db1.state().clients == 2, "both are connected")
    demote(db1, db2)
    stop = [BIN, db1.data, db1.socket, db1.port]
    assert db1.fenced("database_stop", *stop, 3000, 20).stdout.split()[:2] == ["0", "stopped"]
    thread.join(scaled(10))
    assert done == ["committed"]
    assert rows(db2) == 1
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")
    # One that does not end is not waited for for ever, and a server that is down has nothing to end.
    db1.fenced("database_undemote", db1.data)
    db1.start()
    stuck = db1.connect()
    stuck.execute("BEGIN")
    demote(db1, db2)
    assert db1.fenced("database_stop", *stop, 200, 20).stdout.split()[:2] == ["1", "stopped"]
    assert db1.fenced("database_stop", *stop, 200, 20).stdout.split()[:2] == ["-", "stopped"]
    stuck.close()


def test_a_killed_primary_is_measured_rewound_and_follows(pair: tuple[Server, Server]) -> None:
    db1, db2 = pair
    insert(db1, 1)
    until(lambda: rows(db2) == 1, "the replica has the row")
    # The replica hears nothing any more: what is committed now will be lost.
    with db2.connect() as connection:
        connection.execute("ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
        connection.execute("SELECT pg_reload_conf()")
    until(lambda: db2.state().receiver is None, "the replica is cut off")
    committed_from = time.time()
    insert(db1, 2, 3, 4)
    committed_until = time.time()
    before = db2.state()
    db1.kill()
    down = db1.state()
    assert (down.running, down.control_state) == ("no", "in production")

    end = parse_wal_end(db1.run("database_wal_end", BIN, db1.data, before.timeline, lsn_text(before.lsn)).stdout, "db1")

    assert end.commits == 3
    assert end.end_lsn > before.lsn
    assert end.last_commit_at is not None
    assert committed_from <= end.last_commit_at.timestamp() <= committed_until, "the times are not UTC"
    # Fenced: whoever starts it now gets a replica.
    db1.fenced("database_demote", db1.data, "-", "-", "-", "-")
    assert db1.state().has_signal
    assert promote(db2, before, before.lsn, "db1").stdout.split()[:2] == ["promoted", "2"]
    insert(db2, 5)
    found = rebuild(db1, db2, before, "rewind")
    db1.start()
    until(lambda: db1.state().is_streaming, "the old primary follows")
    until(lambda: rows(db1) == rows(db2) == 2, "both have the same rows")
    # What was lost is kept, where a recovery can find it.
    kept = db1.root / found["kept"]
    assert segment_name(1, before.lsn) in {path.name for path in kept.iterdir()}


def test_one_that_cannot_be_rewound_is_copied_beside_and_kept(pair: tuple[Server, Server]) -> None:
    db1, db2 = pair
    insert(db1, 1)
    until(lambda: rows(db2) == 1, "the replica has the row")
    before = db2.state()
    db1.kill()
    assert promote(db2, before, before.lsn, "db1").returncode == 0
    insert(db2, 2)
    (db1.data / "global" / "pg_control").unlink()
    given = ["job0", BIN, db1.data, db1.root / "postgresql.conf", "127.0.0.1", db2.port, ROLE, "db1_slot", "-"]
    full = db1.fenced("database_rebuild", *given, 10**12, "rewind", 60, stdin=f"{PASSWORD}\n")
    assert full.stdout.strip() == "started"
    until(
        lambda: db1.run("dump_status", db1.state_dir / "jobs", "job0").stdout.startswith("failed"), "no space, it fails"
    )
    assert "disk full" in db1.run("dump_status", db1.state_dir / "jobs", "job0").stdout
    assert (db1.data / "PG_VERSION").exists(), "it was moved although there was no space"

    found = rebuild(db1, db2, before, "copy")

    db1.start()
    until(lambda: db1.state().is_streaming, "the copy follows")
    until(lambda: rows(db1) == rows(db2) == 2, "both have the same rows")
    assert (db1.root / found["kept"] / "PG_VERSION").exists(), "the old directory is not there any more"


def test_what_must_not_be_promoted_or_stopped_is_refused(pair: tuple[Server, Server]) -> None:
    db1, db2 = pair
    before = db2.state()
    late = promote(db2, before, before.lsn, "db1", expires=int(time.time()) - 1)
    assert "too late" in late.stderr
    behind = promote(db2, before, before.lsn + 10**9, "db1")
    assert "not replayed as much" in behind.stderr
    another = db2.run(
        "database_promote", db2.state_dir, "production", 5, "run/1", *db2.place, "1", 1, 0, "db1_slot", 10**11, 5
    )
    assert "not 1" in another.stderr
    assert db2.state().is_standby
    # A primary that would come back as one.
    refused = db1.run(
        "database_stop", db1.state_dir, "production", 5, "run/1", BIN, db1.data, db1.socket, db1.port, 0, 5
    )
    assert "no standby.signal" in refused.stderr
    assert db1.state().is_primary
    fenced = db1.run("database_demote", db1.state_dir, "production", 4, "run/0", db1.data, "-", "-", "-", "-")
    assert fenced.returncode == 77
    assert not db1.state().has_signal
