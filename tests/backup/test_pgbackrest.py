"""pgBackRest's commands as jobs, on a real cluster and a real repository: outcomes, not exit statuses."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from sebenza_ops.systems.errors import FencedOffError, NoDataError
from sebenza_ops.systems.pgbackrest import JobStatus, PgBackRest, RepositorySet, parse_verify
from tests.backup.repository_server import CIPHER, SECRET, RepositoryServer
from tests.systems.processes import command_line, until

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def pgbackrest(server: RepositoryServer) -> PgBackRest:
    return PgBackRest(server.environment, server.session)


def a_run() -> str:
    return uuid4().hex


def ended(pgbackrest: PgBackRest, job: str, seconds: float = 60) -> JobStatus:
    until(lambda: pgbackrest.status(job).state != "running", f"{job} has ended", seconds)
    return pgbackrest.status(job)


def back_up(server: RepositoryServer, pgbackrest: PgBackRest, kind: str = "full", run: str = "") -> RepositorySet:
    run = run or a_run()
    assert pgbackrest.start_backup(server.fence(), f"{run}-backup", kind, run, from_replica=False) == "started"
    status = ended(pgbackrest, f"{run}-backup")
    assert status.state == "done", status
    made = pgbackrest.info().of_run(run)
    assert made is not None
    return made


def verify(server: RepositoryServer, pgbackrest: PgBackRest) -> str:
    job = f"{a_run()}-verify"
    pgbackrest.start_verify(server.fence(), job)
    assert ended(pgbackrest, job).state == "done"
    return pgbackrest.output(job)


def jobs(server: RepositoryServer, program: str = "pgbackrest") -> list[int]:
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [
        pid
        for pid in pids
        if command_line(pid).startswith(program)
        and str(server.root) in command_line(pid)
        and "archive" not in command_line(pid)
    ]


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def test_a_backup_is_found_in_the_repository_and_nothing_is_done_twice(
    server: RepositoryServer, pgbackrest: PgBackRest
) -> None:
    pgbackrest.check()
    run = a_run()
    full = back_up(server, pgbackrest, run=run)
    assert (full.backup_type, full.based_on, full.has_error) == ("full", None, False)
    assert pgbackrest.start_backup(server.fence(), f"{run}-backup", "full", run, from_replica=False) == "done"
    diff = back_up(server, pgbackrest, "diff")
    info = pgbackrest.info()
    assert info.chain(diff.label) == (diff.label, full.label)
    assert info.is_encrypted
    assert not info.is_busy
    assert diff.stored_bytes < full.stored_bytes
    report = parse_verify(verify(server, pgbackrest), "db1")
    assert report.is_ok
    assert set(report.valid) == {each.label for each in info.sets}
    assert pgbackrest.archives().is_whole


def test_a_lower_token_starts_nothing(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    latest = server.fence()
    pgbackrest.start_verify(latest, f"{a_run()}-verify")
    run = a_run()
    before = len(pgbackrest.info().sets)
    with pytest.raises(FencedOffError, match="fenced off"):
        pgbackrest.start_backup(server.fence(latest.token - 1), f"{run}-backup", "full", run, from_replica=False)
    assert pgbackrest.status(f"{run}-backup").state == "absent"
    assert len(pgbackrest.info().sets) == before


def test_a_damaged_file_is_found_although_verify_ends_well(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    made = back_up(server, pgbackrest)
    bundle = next((server.repository / "backup/main" / made.label / "bundle").iterdir())
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with server.changed(bundle, bytes(content)):
        report = parse_verify(verify(server, pgbackrest), "db1")
        assert not report.is_ok
        assert list(report.damaged) == [made.label]
        assert "checksum invalid: " in report.damaged[made.label]


def test_a_lost_wal_segment_is_found_although_verify_does_not_miss_it(
    server: RepositoryServer, pgbackrest: PgBackRest
) -> None:
    made = back_up(server, pgbackrest)
    for _ in range(3):
        with server.connect() as connection:
            connection.execute("SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
    pgbackrest.check()
    segments = sorted((server.repository / "archive/main").rglob("*.zst"))
    lost = next(each for each in segments if each.name[:24] > made.wal_stop)
    with server.changed(lost, None):
        assert parse_verify(verify(server, pgbackrest), "db1").archive == ""
        report = pgbackrest.archives()
        assert not report.is_whole
        assert report.missing == ((lost.name[:24], lost.name[:24]),)
        assert report.breaks(made.wal_start)
        later = back_up(server, pgbackrest)
        assert not pgbackrest.archives().breaks(later.wal_start), "a new set does not need what was lost before it"


@pytest.mark.parametrize("whole_group", [True, False], ids=["all of it", "pgbackrest alone"])
def test_a_killed_backup_is_made_by_the_next_try(
    server: RepositoryServer, pgbackrest: PgBackRest, whole_group: bool
) -> None:
    run = a_run()
    job = f"{run}-backup"
    os.kill(server.storage_pid, signal.SIGSTOP)
    try:
        pgbackrest.start_backup(server.fence(), job, "full", run, from_replica=False)
        until(lambda: bool(jobs(server)), "pgbackrest works")
        assert pgbackrest.start_backup(server.fence(), job, "full", run, from_replica=False) == "running"
        # Its parents first: one that sees its child die says that the job has failed.
        words = ("timeout", "sh", "setsid", "pgbackrest") if whole_group else ("pgbackrest",)
        for pid in [pid for word in words for pid in jobs(server, word)]:
            kill(pid)
    finally:
        os.kill(server.storage_pid, signal.SIGCONT)
    status = ended(pgbackrest, job)
    assert status.state == ("absent" if whole_group else "failed"), status
    assert pgbackrest.start_backup(server.fence(), job, "full", run, from_replica=False) == "started"
    assert ended(pgbackrest, job).state == "done"
    assert pgbackrest.info().of_run(run) is not None


def test_a_second_backup_of_another_run_is_refused(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    first, second = a_run(), a_run()
    os.kill(server.storage_pid, signal.SIGSTOP)
    try:
        pgbackrest.start_backup(server.fence(), f"{first}-backup", "full", first, from_replica=False)
        until(lambda: bool(jobs(server)), "pgbackrest works")
        pgbackrest.start_backup(server.fence(), f"{second}-backup", "full", second, from_replica=False)
        refused = ended(pgbackrest, f"{second}-backup")
        assert refused.state == "failed"
        assert "[050]" in refused.log_tail
    finally:
        os.kill(server.storage_pid, signal.SIGCONT)
    assert ended(pgbackrest, f"{first}-backup").state == "done"


@pytest.mark.long
def test_a_storage_that_goes_down_fails_the_backup_and_leaves_no_process(
    server: RepositoryServer, pgbackrest: PgBackRest
) -> None:
    run = a_run()
    os.kill(server.storage_pid, signal.SIGSTOP)
    pgbackrest.start_backup(server.fence(), f"{run}-backup", "full", run, from_replica=False)
    until(lambda: bool(jobs(server)), "pgbackrest works")
    server.stop_storage()
    try:
        with pytest.raises(NoDataError, match=r"can't be read: .*onnect"):
            pgbackrest.info()
        status = ended(pgbackrest, f"{run}-backup", 120)
        assert status.state == "failed"
        assert "ERROR: [" in status.log_tail
        until(lambda: not jobs(server), "no process is left", 10)
    finally:
        server.start_storage()
    assert ended_again(server, pgbackrest, run)


def ended_again(server: RepositoryServer, pgbackrest: PgBackRest, run: str) -> bool:
    pgbackrest.start_backup(server.fence(), f"{run}-backup", "full", run, from_replica=False)
    return ended(pgbackrest, f"{run}-backup").state == "done"


def test_another_key_opens_nothing(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    right = server.config_file.read_text()
    server.config_file.write_text(right.replace(CIPHER, "another-passphrase"))
    try:
        with pytest.raises(
            NoDataError, match=r"can't be read: is the passphrase the one it was made with\? "
        ) as refusal:
            pgbackrest.info()
        assert str(refusal.value).isascii(), "noise reaches people and the ledger"
    finally:
        server.config_file.write_text(right)


def test_sets_expire_by_age_only_and_the_newest_full_stays(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    back_up(server, pgbackrest)
    before = {each.label for each in pgbackrest.info().sets}
    assert pgbackrest.expiring(30) == ()
    job = f"{a_run()}-expire"
    pgbackrest.start_expire(server.fence(), job, 30)
    assert ended(pgbackrest, job).state == "done"
    assert {each.label for each in pgbackrest.info().sets} == before


def test_no_secret_is_in_what_jobs_leave(server: RepositoryServer, pgbackrest: PgBackRest) -> None:
    back_up(server, pgbackrest, "incr")
    left = [path for path in (server.root / "var/lib/sebenza-backup").rglob("*") if path.is_file()]
    assert left
    for path in left:
        text = path.read_text(errors="replace")
        assert CIPHER not in text, path
        assert SECRET not in text, path
