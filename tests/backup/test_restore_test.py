"""A set is proven by restoring it: into a scratch instance, checked, compared, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from sebenza_ops.systems.backup_host import BackupHost
from sebenza_ops.systems.pgbackrest import JobStatus, PgBackRest, RepositorySet
from sebenza_ops.systems.restore_test import RestoreTest
from tests.backup.repository_server import RepositoryServer
from tests.systems.processes import command_line, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]


Set = tuple[RepositorySet, str, str, int]


@pytest.fixture(scope="module")
def backed_up(server: RepositoryServer) -> Set:
    """A set, the LSN of its manifest, that of later on, and the rows of `orders` at the manifest's."""
    run = uuid4().hex
    pgbackrest, host = PgBackRest(server.environment, server.session), BackupHost(server.environment, server.session)
    pgbackrest.start_backup(server.fence(), f"{run}-backup", "full", run, from_replica=False)
    until(lambda: pgbackrest.status(f"{run}-backup").state != "running", "the backup has ended", 60)
    made = pgbackrest.info().of_run(run)
    assert made is not None
    with server.connect() as connection:
        connection.execute("INSERT INTO orders VALUES (0, 'after the backup')")
    host.start_dump(server.fence(), f"{run}-dump")
    until(lambda: host.status(f"{run}-dump").state != "running", "the rows are counted", 60)
    manifest = host.manifest(f"{run}-dump")
    with server.connect() as connection:
        connection.execute("INSERT INTO orders VALUES (-1, 'after the manifest')")
        connection.execute("SELECT pg_switch_wal()")
        connection.execute("INSERT INTO orders VALUES (-2, 'in another segment')")
    now = host.wal_now()
    pgbackrest.check()
    return made, manifest.lsn, now, manifest.rows["public.orders"]


def restored(
    server: RepositoryServer, label: str, lsn: str, now: str, job: str = "", size_bytes: int = 1000
) -> JobStatus:
    test, job = RestoreTest(server.environment, server.session), job or f"{uuid4().hex}-restore"
    assert test.start(server.fence(), job, label, lsn, now, size_bytes) == "started"
    until(lambda: test.status(job).state != "running", "the restore has ended", 90)
    return test.status(job)


def scratch_processes(server: RepositoryServer) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    text = f"{server.root}/var/lib/sebenza-backup/"
    return [pid for pid in pids if text in command_line(pid) and "postgres" in command_line(pid)]


def test_a_set_is_restored_to_the_manifests_moment_and_nothing_is_left(
    server: RepositoryServer, backed_up: Set
) -> None:
    made, lsn, now, rows = backed_up
    test, job = RestoreTest(server.environment, server.session), f"{uuid4().hex}-restore"
    status = restored(server, made.label, lsn, now, job)
    assert status.state == "done", status
    report = test.report(job)
    assert report.rows["public.orders"] == rows
    assert report.restored_bytes > 10**6
    assert report.restore_seconds > 0
    assert report.resident_bytes is not None
    assert report.resident_bytes < report.restored_bytes / 10, "the replay read from memory"
    assert test.start(server.fence(), job, made.label, lsn, now, 1000) == "done", "a retry restores again"
    assert not (server.root / "var/lib/sebenza-backup" / job / "data").exists()
    assert not scratch_processes(server)
    with server.connect() as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,), "the server itself was touched"


@pytest.mark.long
def test_a_damaged_set_an_lsn_that_is_not_there_and_a_full_disk_fail(server: RepositoryServer, backed_up: Set) -> None:
    made, lsn, now, _ = backed_up
    for late in (restored(server, made.label, "FF/0", "FF/0"), restored(server, made.label, lsn, "FF/0")):
        assert late.state == "failed"
        assert "recovery ended before configured recovery target was reached" in late.log_tail
    full = restored(server, made.label, lsn, now, size_bytes=10**15)
    assert "disk full" in full.log_tail
    bundle = next((server.repository / "backup/main" / made.label / "bundle").iterdir())
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with server.changed(bundle, bytes(content)):
        damaged = restored(server, made.label, lsn, now)
    assert damaged.state == "failed"
    assert "ERROR: [" in damaged.log_tail
    assert not scratch_processes(server)


@pytest.mark.long
def test_a_killed_restore_is_made_by_the_next_try(server: RepositoryServer, backed_up: Set) -> None:
    made, lsn, now, rows = backed_up
    test, job = RestoreTest(server.environment, server.session), f"{uuid4().hex}-restore"
    test.start(server.fence(), job, made.label, lsn, now, 1000)
    until(lambda: bool(scratch_processes(server)), "the scratch instance runs", 60)
    for pid in [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]:
        if f"{job}/job.sh" in command_line(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    until(lambda: test.status(job).state == "absent", "the job is dead", 10)
    assert restored(server, made.label, lsn, now, job).state == "done"
    assert test.report(job).rows["public.orders"] == rows
    assert not scratch_processes(server)
