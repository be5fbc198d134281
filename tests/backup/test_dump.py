"""The dump and its manifest: one snapshot, proven whole, sent and read back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest

from sebenza_ops.environments.models import Environment, LogicalDumpPolicy
from sebenza_ops.systems import backup_host
from sebenza_ops.systems.backup_host import BackupHost, DumpReport, Manifest
from sebenza_ops.systems.errors import FencedOffError, NoDataError, RemoteCommandError
from sebenza_ops.systems.object_store import ObjectStorage
from tests.backup.repository_server import BINARIES, RepositoryServer
from tests.systems.processes import command_line, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def with_dump(environment: Environment, dump: LogicalDumpPolicy | None, **changes: Any) -> Environment:
    policies = environment.policies
    assert policies.backup is not None
    backup = policies.backup.model_copy(update={"logical_dump": dump, **changes})
    return environment.model_copy(update={"policies": policies.model_copy(update={"backup": backup})})


def host_of(server: RepositoryServer, dump: LogicalDumpPolicy | None = None, **changes: Any) -> BackupHost:
    return BackupHost(with_dump(server.environment, dump, **changes), server.session)


DIRECTORY = LogicalDumpPolicy(format="directory", processes=2)
CUSTOM = LogicalDumpPolicy(format="custom")


def a_job() -> str:
    return f"{uuid4().hex}-dump"


def made(server: RepositoryServer, host: BackupHost, job: str) -> tuple[Manifest, DumpReport]:
    assert host.start_dump(server.fence(), job) == "started"
    until(lambda: host.status(job).state != "running", "the dump has ended", 60)
    status = host.status(job)
    assert status.state == "done", status
    return host.manifest(job), host.dump_report(job)


def work_dir(server: RepositoryServer) -> Path:
    return server.root / "var/lib/sebenza-backup"


def test_a_dump_tells_of_its_snapshot_once_it_is_taken(server: RepositoryServer) -> None:
    host, job = host_of(server, DIRECTORY), a_job()
    assert host.snapshot_lsn(job) is None
    manifest, _ = made(server, host, job)
    assert host.snapshot_lsn(job) == manifest.lsn
    # What an attempt that failed has left is not the next one's.
    place = work_dir(server) / job
    (place / "result.json").unlink()
    (place / "snapshot").write_text("0/1; rm -rf\n")
    with pytest.raises(NoDataError, match="has no LSN"):
        host.snapshot_lsn(job)
    assert host.start_dump(server.fence(), job) == "started"
    until(lambda: host.status(job).state == "done", "the dump has ended", 60)
    assert host.snapshot_lsn(job) == host.manifest(job).lsn


@pytest.mark.parametrize("dump", [DIRECTORY, CUSTOM], ids=lambda dump: dump.format)
def test_rows_and_dump_are_of_one_moment_while_others_write(server: RepositoryServer, dump: LogicalDumpPolicy) -> None:
    host, job, stop = host_of(server, dump), a_job(), threading.Event()

    def write() -> None:
        with server.connect() as connection:
            while not stop.is_set():
                connection.execute("INSERT INTO orders SELECT n, 'new' FROM generate_series(1, 7) n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        manifest, report = made(server, host, job)
    finally:
        stop.set()
        writer.join()
    assert manifest.rows["public.orders"] >= 5000
    assert manifest.rows.keys() <= report.tables
    assert not manifest.from_replica
    assert manifest.schema_revision is None
    assert host.start_dump(server.fence(), job) == "done", "a retry makes a second dump"

    (source,) = (work_dir(server) / job / "dump").iterdir()
    with server.connect("postgres") as connection:
        connection.execute(f"CREATE DATABASE restored_{dump.format}")
    command = [str(BINARIES / "pg_restore"), f"--dbname=restored_{dump.format}", "--username=postgres"]
    subprocess.run([*command, f"--host={server.root}/run/postgresql", str(source)], check=True)
    with server.connect(f"restored_{dump.format}") as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (manifest.rows["public.orders"],)


def test_rows_are_counted_without_a_dump(server: RepositoryServer) -> None:
    with server.connect() as connection:
        connection.execute("CREATE TABLE schema_migrations (number int, finished_at timestamptz)")
        connection.execute("INSERT INTO schema_migrations VALUES (3, now()), (4, NULL)")
    try:
        manifest, report = made(server, host_of(server), a_job())
    finally:
        with server.connect() as connection:
            connection.execute("DROP TABLE schema_migrations")
    assert manifest.rows["public.schema_migrations"] == 2
    assert manifest.schema_revision == 3, "a migration that is not finished counts"
    assert report.pieces == ()


def test_pieces_are_sent_and_read_back(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_host, "PIECE_BYTES", 50_000)
    host, job = host_of(server, CUSTOM), a_job()
    _, report = made(server, host, job)
    assert len(report.pieces) > 1
    pieces = [(piece, f"dumps/{job}/{piece.offset}") for piece in report.pieces]
    storage = cast("ObjectStorage", server)
    host.upload(storage, job, pieces)
    whole = b"".join((server.storage_dir / "sebenza" / key).read_bytes() for _, key in pieces)
    (file,) = (work_dir(server) / job / "dump").iterdir()
    assert whole == file.read_bytes()

    content = bytearray(file.read_bytes())
    content[60_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(RemoteCommandError, match="has changed since it was verified"):
        host.upload(storage, job, pieces)


def test_too_little_space_fails_before_anything_is_read(server: RepositoryServer) -> None:
    host, job = host_of(server, DIRECTORY, minimum_free_bytes=10**15), a_job()
    host.start_dump(server.fence(), job)
    until(lambda: host.status(job).state != "running", "the dump has ended", 30)
    status = host.status(job)
    assert status.state == "failed"
    assert "disk full" in status.log_tail


@pytest.mark.parametrize("victims", ["count.sql", ""], ids=["psql", "all of it"])
def test_a_killed_dump_is_made_by_the_next_try(server: RepositoryServer, victims: str) -> None:
    host, job = host_of(server, CUSTOM), a_job()
    with server.connect() as connection:
        connection.execute("CREATE TABLE locked (id int)")
    with server.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        host.start_dump(server.fence(), job)
        until(lambda: bool(processes(f"{job}/count.sql")), "the rows are being counted")
        assert host.start_dump(server.fence(), job) == "running"
        for pid in processes(f"{job}/{victims}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until(lambda: host.status(job).state != "running", "it has ended", 30)
    assert host.status(job).state == ("failed" if victims else "absent")
    assert not (work_dir(server) / job / "result.json").exists()
    _, report = made(server, host, job)
    assert "public.locked" in report.tables
    with server.connect() as connection:
        connection.execute("DROP TABLE locked")


def processes(text: str) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if text in command_line(pid)]


def test_a_lower_token_dumps_and_prunes_nothing(server: RepositoryServer) -> None:
    host, job = host_of(server, CUSTOM), a_job()
    latest = server.fence()
    host.prune(latest, 7, [])
    with pytest.raises(FencedOffError):
        host.start_dump(server.fence(latest.token - 1), job)
    with pytest.raises(FencedOffError):
        host.prune(server.fence(latest.token - 1), 7, [])
    assert not (work_dir(server) / job).exists()


def test_old_jobs_are_removed_but_those_that_are_kept(server: RepositoryServer) -> None:
    host, old, kept, new = host_of(server), uuid4().hex, uuid4().hex, uuid4().hex
    ago = time.time() - 8 * 86400
    for name in (f"{old}-dump", f"{kept}-dump", f"{new}-dump"):
        directory = work_dir(server) / name
        directory.mkdir()
        subprocess.run(["chown", "postgres", str(directory)], check=True)
        if not name.startswith(new):
            os.utime(directory, (ago, ago))
    removed = host.prune(server.fence(), 7, [kept])
    assert f"{old}-dump" in removed
    assert not (work_dir(server) / f"{old}-dump").exists()
    assert (work_dir(server) / f"{kept}-dump").exists()
    assert (work_dir(server) / f"{new}-dump").exists()


def test_the_state_of_a_host_is_what_the_server_says(server: RepositoryServer) -> None:
    state = host_of(server).state()
    assert not state.in_recovery
    assert (state.archive.mode, state.archive.timeout_seconds) == ("on", 60)
    assert state.free_bytes > 0
    assert state.database_bytes > 10**6
    assert state.system_identifier.isdigit()
