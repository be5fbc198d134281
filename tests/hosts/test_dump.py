"""The dump before a change, of a real PostgreSQL: whole and verified, or a failure that is seen."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from sebenza_ops.systems.database_dump import DumpResult, DumpStatus, parse_dump_status
from tests.hosts.artifact_server import ArtifactServer, artifact_server, sha256
from tests.hosts.scripts import run
from tests.postgres_server import BINARIES, PostgresServer
from tests.systems.processes import command_line, until

pytestmark = pytest.mark.integration

RUN = "0123456789abcdef"


@pytest.fixture(scope="module")
def database() -> Iterator[PostgresServer]:
    server = PostgresServer()
    server.start()
    try:
        server.create_database("shop")
        server.create_database("restored")
        with connect(server) as connection:
            connection.execute(
                "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 5000) n"
            )
        yield server
    finally:
        server.stop()


def connect(server: PostgresServer, name: str = "shop") -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(host=str(server.directory), dbname=name, user="postgres", autocommit=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[ArtifactServer]:
    with artifact_server(tmp_path) as server:
        # What was written can be read.
        server.files = server.uploaded
        yield server


class Dump:
    """A run's dump in a work directory of its own."""

    def __init__(self, server: PostgresServer, work_dir: Path) -> None:
        self.server, self.work_dir = server, work_dir
        self.job = work_dir / RUN

    def start(self, *, version: int = 15, shell: str = "dash", database: str = "shop") -> str:
        place = [self.work_dir, RUN, version, self.server.directory, 5432, "postgres", database, 60]
        done = run("dump_start", *place, stdin="no-password\n", shell=shell)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self) -> DumpStatus:
        done = run("dump_status", self.work_dir, RUN)
        assert done.returncode == 0, done.stderr
        return parse_dump_status(done.stdout, "db1")

    def await_end(self) -> DumpStatus:
        until(lambda: self.status().state != "running", "the dump has ended", 60)
        return self.status()

    def made(self) -> DumpResult:
        self.start()
        status = self.await_end()
        assert status.result is not None, status
        return status.result

    def upload(self, web: ArtifactServer, path: str, sha: str, shell: str = "dash") -> subprocess.CompletedProcess[str]:
        return run("dump_upload", self.work_dir, RUN, sha, stdin=f"{web.url(path)}\n{web.source(path)}", shell=shell)

    def pids(self, program: str) -> list[int]:
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return [pid for pid in pids if program in command_line(pid) and str(self.job) in command_line(pid)]


@pytest.fixture
def dump(database: PostgresServer, tmp_path: Path) -> Dump:
    return Dump(database, tmp_path / "dumps")


def test_a_dump_is_verified_sent_and_can_be_restored(
    dump: Dump, web: ArtifactServer, tmp_path: Path, shell: str
) -> None:
    assert dump.start(shell=shell) == "started"
    result = dump.await_end().result
    assert result is not None
    content = (dump.job / "dump.pgc").read_bytes()
    assert (result.size_bytes, result.sha256) == (len(content), sha256(content))
    assert result.entries > 0
    assert "pg_dump" in result.made_with
    assert oct((dump.job / "dump.pgc").stat().st_mode & 0o777) == "0o600", "others may read customers' data"

    sent = dump.upload(web, "/bucket/a.dump", result.sha256, shell)
    assert sent.returncode == 0, sent.stderr
    kept = tmp_path / "kept.dump"
    kept.write_bytes(web.uploaded["/bucket/a.dump"])
    command = [str(BINARIES / "pg_restore"), "--clean", "--if-exists", "--dbname=restored", "--username=postgres"]
    subprocess.run([*command, f"--host={dump.server.directory}", str(kept)], check=True)
    query = "SELECT count(*), md5(string_agg(name, '' ORDER BY id)) FROM orders"
    with connect(dump.server) as one, connect(dump.server, "restored") as other:
        assert one.execute(query).fetchone() == other.execute(query).fetchone()

    assert dump.start() == "done", "a retry makes a second dump"
    assert run("dump_discard", dump.work_dir, RUN, shell=shell).returncode == 0
    assert not dump.job.exists()
    assert dump.status().state == "absent"


def test_a_second_start_finds_the_running_dump(dump: Dump) -> None:
    with connect(dump.server) as connection, connection.transaction():
        connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        assert dump.start() == "started"
        assert dump.status().state == "running"
        assert dump.start() == "running"
        assert run("dump_discard", dump.work_dir, RUN).returncode == 0
        assert dump.status().state == "running", "a dump at work was removed"
    assert dump.await_end().state == "done"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dump_whose_program_is_killed_has_failed(dump: Dump, number: signal.Signals) -> None:
    with connect(dump.server) as connection, connection.transaction():
        connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        dump.start()
        until(lambda: bool(dump.pids("pg_dump")), "pg_dump waits")
        for pid in dump.pids("pg_dump"):
            os.kill(pid, number)
        status = dump.await_end()
    assert (status.state, status.result) == ("failed", None)
    assert not (dump.job / "dump.pgc").exists(), "half a dump was kept"
    assert dump.made().size_bytes > 0


def test_a_dump_that_is_killed_with_all_its_processes_is_made_anew(dump: Dump) -> None:
    with connect(dump.server) as connection, connection.transaction():
        connection.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        dump.start()
        until(lambda: bool(dump.pids("pg_dump")), "pg_dump waits")
        for pid in dump.pids("dump"):
            os.kill(pid, signal.SIGKILL)
        until(lambda: not dump.pids("dump"), "all are dead")
        assert dump.status().state == "absent", "a dead dump was taken for a running one, or for a whole one"
    assert dump.made().size_bytes > 0


def test_a_dump_of_what_is_not_there_says_why(dump: Dump) -> None:
    dump.start(database="no_such_database")
    status = dump.await_end()
    assert status.state == "failed"
    assert 'database "no_such_database" does not exist' in status.log_tail


def stub(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{text}\n")
    (directory / name).chmod(0o755)


def test_too_little_disk_is_refused_before_anything_is_written(
    dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub(tmp_path / "bin", "df", 'echo head; echo "x x x 1000 x x"')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    dump.start()
    status = dump.await_end()
    assert status.state == "failed"
    assert "disk full: 1000 KiB free in" in status.log_tail


def test_a_dump_that_was_cut_is_no_dump(dump: Dump, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `pg_restore --list` is content with the head of a file.
    text = f'for a in "$@"; do case $a in --file=*) f=${{a#--file=}} ;; esac; done\n{BINARIES}/pg_dump "$@"\n'
    text += 'case ${f:-} in "") ;; *) truncate -s -9000 "$f" ;; esac'
    stub(tmp_path / "bin", "pg_dump", text)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{BINARIES}:{os.environ['PATH']}")
    dump.start(version=99)
    status = dump.await_end()
    assert status.state == "failed", "a dump that was cut was taken for a whole one"
    assert "end of file" in status.log_tail


def test_what_storage_gives_back_is_compared(dump: Dump, web: ArtifactServer, shell: str) -> None:
    result = dump.made()
    web.files = {"/bucket/b.dump": b"something else"}
    other = dump.upload(web, "/bucket/b.dump", result.sha256, shell)
    assert other.returncode == 1
    assert "what object storage gives back has SHA-256" in other.stderr
    refused = dump.upload(web, "/refused/b.dump", result.sha256, shell)
    assert "the upload failed" in refused.stderr
    assert "TOPSECRET" not in other.stderr + refused.stderr
    (dump.job / "dump.pgc").write_bytes(b"changed")
    changed = dump.upload(web, "/bucket/c.dump", result.sha256, shell)
    assert "has changed since it was verified" in changed.stderr
    assert "/bucket/c.dump" not in web.uploaded


def test_what_earlier_runs_left_is_removed(dump: Dump) -> None:
    old = dump.work_dir / "fedcba9876543210"
    old.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86400
    os.utime(old, (two_days_ago, two_days_ago))
    dump.made()
    assert not old.exists()
