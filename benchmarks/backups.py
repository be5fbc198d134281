"""Backups and restores of the lab's production database: pgBackRest and its procedures beside the manual's dump."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.order import ENVIRONMENT
from benchmarks.rows import Row
from benchmarks.session import BenchmarkError, Session
from lab import backups, inventory, object_copy, paths, postgres
from lab.accounts import DATABASE_USER, ids
from lab.addresses import POSTGRES_PORT
from lab.airflow.client import AirflowClient
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.chaos.records import Records
from lab.hosts import ENVIRONMENTS, has_secondary_site
from lab.storage import BUCKET
from lab.waiting import scaled, until

BACKUP: Final = f"backup_database.{ENVIRONMENT}"
VERIFY: Final = f"verify_backups.{ENVIRONMENT}"
DATABASE: Final = ENVIRONMENTS[ENVIRONMENT].database_name
# 1 GB with its indexes, over as many tables as an application has: an increment has the files that changed.
TABLES: Final = tuple(f"benchmark_events_{number}" for number in range(10))
ROWS: Final = 3_600_000
# A row compresses 4 or 5:1, as an application's does: words that come again, and some that do not.
FILL: Final = """CREATE TABLE {table} AS SELECT n AS id, timestamptz '2026-01-01' + n * interval '1 second' AS at,
  'user-' || (n * 7919 % 50000) AS who,
  (ARRAY['created', 'updated', 'viewed', 'exported', 'deleted'])[1 + n % 5] AS action,
  md5((n * 31)::text) || md5((n * 37)::text) || md5((n * 41)::text) AS reference,
  'project ' || (n % 997) || ' was changed by planning, see invoice ' || (n * 13 % 99991)
    || '; status active, priority normal, currency ZAR, ' || repeat('note ', (n % 9)::int) AS detail
FROM generate_series({first}::bigint, {last}) n"""
KEY: Final = "benchmark/database.sql.gz"


def measure(session: Session) -> Iterator[Row]:
    """The rows of `backup.*` and `restore.*`. Production has its rows, and no others, afterwards."""
    with (
        _switched_on(session),
        _filled(session),
        _own_sets_removed(session),
        tempfile.TemporaryDirectory(prefix="sebenza-bench-") as directory,
    ):
        os.chown(directory, *ids(DATABASE_USER))
        place = Path(directory)
        host = postgres.primary_of_production()
        dump = place / "database.sql.gz"
        manual = _timed(lambda: _dump_and_send(host, dump))
        session.say(f"pg_dump | gzip, sent: {manual:.1f} s, {dump.stat().st_size} bytes")
        yield from _by_pgbackrest(session, host, place, dump, manual)
        yield from _by_procedures(session, host, place)


def _by_pgbackrest(session: Session, host: str, place: Path, dump: Path, manual: float) -> Iterator[Row]:
    """Its commands beside the manual's dump."""
    full = _timed(lambda: _pgbackrest(host, "--type=full", "backup"))
    stored, label = _newest(host)
    session.say(f"pgBackRest, full: {full:.1f} s, {stored} bytes")
    yield _row("backup.wall_seconds", full, manual)
    yield Row("backup.stored_bytes", stored, dump.stat().st_size, "bytes", 1)
    with postgres.connect(host, DATABASE) as cursor:
        cursor.execute(f"UPDATE {TABLES[0]} SET action = 'updated' WHERE id <= 1000")
    incremental = _timed(lambda: _pgbackrest(host, "--type=incr", "backup"))
    session.say(f"pgBackRest, incremental: {incremental:.1f} s")
    yield _row("backup.wall_seconds.incremental", incremental, manual)
    by_psql = _timed(lambda: _restore_dump(host, dump))
    by_pgbackrest = _timed(lambda: _restore_set(host, label, place / "restored"))
    session.say(f"gunzip | psql: {by_psql:.1f} s, pgBackRest until it takes writes: {by_pgbackrest:.1f} s")
    yield _row("restore.wall_seconds", by_pgbackrest, by_psql)


def _by_procedures(session: Session, host: str, place: Path) -> Iterator[Row]:
    """The procedures beside their commands by hand."""
    replica = next(name for name in ENVIRONMENTS[ENVIRONMENT].database_hosts if name != host)
    bare_backup = _timed(lambda: _bare_backup(host, replica, place / "dump"))
    # `verify` reads every set: the procedure gets as many as the commands had.
    _pgbackrest(host, f"--set={_newest(host)[1]}", "expire")
    by_dag = _run_seconds(session, BACKUP, {"type": "full"})
    session.say(f"backup_database: {by_dag:.1f} s, its commands alone: {bare_backup:.1f} s")
    yield _row("backup.dag_wall_seconds", by_dag, bare_backup)
    _, label = _newest(host)
    bare_restore = _timed(lambda: _bare_restore_test(host, label, place / "tested"))
    verify_by_dag = _run_seconds(session, VERIFY, {"repository": "no"})
    session.say(f"verify_backups: {verify_by_dag:.1f} s, its commands alone: {bare_restore:.1f} s")
    yield _row("restore.dag_wall_seconds", verify_by_dag, bare_restore)


def _row(name: str, value: float, baseline: float) -> Row:
    return Row(name, round(value, 2), round(baseline, 2), "s", 1)


def _timed(action: Any) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


@contextmanager
def _filled(session: Session) -> Iterator[None]:
    """The tables are in production's database, on its replica, and its WAL is archived."""
    host = postgres.primary_of_production()
    session.say(f"filling {DATABASE} with {ROWS} rows")
    with postgres.connect(host, DATABASE) as cursor:
        _drop(cursor)
        share = ROWS // len(TABLES)
        for number, table in enumerate(TABLES):
            cursor.execute(FILL.format(table=table, first=number * share + 1, last=(number + 1) * share))
            cursor.execute(f"ALTER TABLE {table} ADD PRIMARY KEY (id)")
            cursor.execute(f"VACUUM ANALYZE {table}")
        cursor.execute("CHECKPOINT")
        cursor.execute("SELECT pg_database_size(current_database())")
        (size,) = cursor.fetchone()
    try:
        _settle(host)
        session.say(f"{DATABASE} has {size} bytes")
        yield
    finally:
        session.say(f"removing the rows of {DATABASE} again")
        primary = postgres.primary_of_production()
        with postgres.connect(primary, DATABASE) as cursor:
            _drop(cursor)
        inventory.storage_client().delete_object(Bucket=BUCKET, Key=KEY)
        # What comes next asks the estate for its health: not behind gigabytes that are on their way.
        _settle(primary)
        if has_secondary_site():
            object_copy.await_round()


def _drop(cursor: Any) -> None:
    for table in TABLES:
        cursor.execute(f"DROP TABLE IF EXISTS {table}")


def _settle(host: str) -> None:
    """Wait until all WAL is archived and replayed: what follows is measured, not what came before."""
    until(
        lambda: _behind(host) == (0, 0),
        f"{host}: all WAL is archived and replayed",
        300,
        progress=lambda: "{} WAL files wait for the archive, the replica has {} MB to replay".format(*_behind(host)),
        poll_seconds=0.5,
    )


def _behind(host: str) -> tuple[int, int]:
    """WAL files that are not archived, and MB of WAL that are not replayed."""
    with postgres.connect(host) as cursor:
        cursor.execute("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'")
        (waiting,) = cursor.fetchone()
        cursor.execute("SELECT coalesce(max(pg_wal_lsn_diff(sent_lsn, replay_lsn)), 0) FROM pg_stat_replication")
        (lag,) = cursor.fetchone()
    return int(waiting), int(lag) // 2**20


@contextmanager
def _own_sets_removed(session: Session) -> Iterator[None]:
    """Sets that were made by hand are gone afterwards; those of procedures, and what was there, stay."""
    before = _labels(postgres.primary_of_production())
    try:
        yield
    finally:
        host = postgres.primary_of_production()
        catalogued = {each.label for each in Records(paths.LEDGER_FILE).catalog(ENVIRONMENT)}
        there = _labels(host)
        full = [label for label in there if label.endswith("F")]
        own = [label for label in full if label not in {*before, *catalogued}]
        # pgBackRest keeps at least one: the newest, when there is no other.
        for label in own if len(own) < len(full) else own[:-1]:
            session.say(f"removing the set {label}, and what builds on it")
            _pgbackrest(host, f"--set={label}", "expire")


@contextmanager
def _switched_on(session: Session) -> Iterator[None]:
    """The schedules, switched on: a manual run of a paused DAG waits for ever. Runs that were due are awaited."""
    with LocalAirflow(lab_settings()).client("admin") as admin:
        paused = [dag_id for dag_id in (BACKUP, VERIFY) if admin.dag_details(dag_id)["is_paused"]]
        try:
            for dag_id in paused:
                _switch_on(session, admin, dag_id)
            yield
        finally:
            for dag_id in paused:
                admin.set_paused(dag_id, True)


def _switch_on(session: Session, admin: AirflowClient, dag_id: str) -> None:
    """A schedule that never ran begins at once, with the run that was due last."""
    never_ran = not session.client.dag_runs(dag_id)
    admin.set_paused(dag_id, False)
    if never_ran:
        until(lambda: bool(session.client.dag_runs(dag_id)), f"{dag_id} has begun", 60)
    _await_idle(session, dag_id)


def _await_idle(session: Session, dag_id: str) -> None:
    for run in session.client.dag_runs(dag_id):
        session.client.await_state(dag_id, run["dag_run_id"], timeout_seconds=300)


def _run_seconds(session: Session, dag_id: str, conf: dict[str, object]) -> float:
    # A verification that a backup has set off holds the lease of backups.
    for each in (BACKUP, VERIFY):
        _await_idle(session, each)
    run = session.client.dag_run(dag_id, session.run(dag_id, conf))
    began, ended = (datetime.fromisoformat(str(run[name])) for name in ("start_date", "end_date"))
    return (ended - began).total_seconds()


def _as_owner(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    user_id, group_id = ids(DATABASE_USER)
    done = subprocess.run(
        list(command),
        user=user_id,
        group=group_id,
        extra_groups=[],
        cwd="/",
        env={"PATH": f"{paths.POSTGRES_BIN}:/usr/bin:/bin", "LANG": "C.UTF-8"},
        stderr=subprocess.PIPE,
        check=False,
        **options,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"{' '.join(command[:3])} failed: {done.stderr.decode(errors='replace')[-500:]}")
    return done


def _server(host: str) -> list[str]:
    return [f"--host={paths.host_files(host)}/run/postgresql", f"--port={POSTGRES_PORT}", "--username=postgres"]


def _pgbackrest(host: str, *arguments: str) -> str:
    done = backups.run(host, *arguments, timeout_seconds=600)
    if done.returncode != 0:
        raise BenchmarkError(f"pgbackrest {arguments[-1]} failed: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout


def _sets(host: str) -> list[dict[str, Any]]:
    return list(json.loads(_pgbackrest(host, "--output=json", "info"))[0]["backup"])


def _labels(host: str) -> list[str]:
    """Of all sets, oldest first; that of a full one ends with F."""
    return [str(each["label"]) for each in _sets(host)]


def _newest(host: str) -> tuple[int, str]:
    newest = _sets(host)[-1]
    return int(newest["info"]["repository"]["delta"]), str(newest["label"])


def _dump_and_send(host: str, file: Path) -> None:
    """As the manual has it, but that it would notice when pg_dump fails."""
    with file.open("wb") as target:
        dump = subprocess.Popen(
            ["runuser", "-u", DATABASE_USER, "--", str(paths.POSTGRES_BIN / "pg_dump"), *_server(host), DATABASE],
            stdout=subprocess.PIPE,
            cwd="/",
        )
        subprocess.run(["gzip"], stdin=dump.stdout, stdout=target, check=True)
        if dump.wait() != 0:
            raise BenchmarkError("pg_dump failed")
    inventory.storage_client().upload_file(str(file), BUCKET, KEY)


def _restore_dump(host: str, file: Path) -> None:
    """Fetched, as a restore does, into a new database."""
    name = f"{DATABASE}_bench"
    fetched = file.with_name("fetched.sql.gz")
    inventory.storage_client().download_file(BUCKET, KEY, str(fetched))
    with postgres.connect(host) as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        command = [str(paths.POSTGRES_BIN / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", *_server(host), name]
        gunzip = subprocess.Popen(["gunzip", "--stdout", str(fetched)], stdout=subprocess.PIPE)
        _as_owner(command, stdin=gunzip.stdout, stdout=subprocess.DEVNULL)
        if gunzip.wait() != 0:
            raise BenchmarkError("gunzip failed")
    finally:
        with postgres.connect(host) as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _restore_set(host: str, label: str, data: Path, *options: str) -> None:
    """Restored beside, started, and awaited until it takes writes; then removed."""
    with _restored(host, label, data, *(options or ("--type=immediate", "--target-action=promote"))):
        pass


@contextmanager
def _restored(host: str, label: str, data: Path, *options: str) -> Iterator[Path]:
    data.mkdir()
    os.chown(data, *ids(DATABASE_USER))
    socket = Path(tempfile.mkdtemp(prefix="sb-", dir="/tmp"))
    os.chown(socket, *ids(DATABASE_USER))
    restore = [f"--set={label}", f"--pg1-path={data}", "--archive-mode=off", "--process-max=2", *options]
    _pgbackrest(host, *restore, "restore")
    (data / "bench.conf").write_text("")
    (data / "bench.hba").write_text("local all all peer\n")
    for name in ("bench.conf", "bench.hba"):
        os.chown(data / name, *ids(DATABASE_USER))
    settings = (
        f"-c config_file={data}/bench.conf -c hba_file={data}/bench.hba -c listen_addresses= -c archive_mode=off "
    )
    settings += f"-c unix_socket_directories={socket} -c hot_standby=off -c max_prepared_transactions=100"
    control = [str(paths.POSTGRES_BIN / "pg_ctl"), "--pgdata", str(data), "--wait", "--timeout", f"{scaled(120):.0f}"]
    log = data / "bench.log"
    try:
        try:
            _as_owner([*control, "--log", str(log), "--options", settings, "start"], stdout=subprocess.DEVNULL)
        except BenchmarkError as error:
            raise BenchmarkError(f"{error}: {log.read_text()[-500:]}") from error
        until(lambda: _takes_writes(socket), "the restored instance takes writes", 120)
        yield socket
    finally:
        if (data / "postmaster.pid").exists():
            _as_owner([*control, "--mode=immediate", "stop"], stdout=subprocess.DEVNULL)
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(socket, ignore_errors=True)


def _takes_writes(socket: Path) -> bool:
    psql = [str(paths.POSTGRES_BIN / "psql"), "-XAtq", "-h", str(socket), "-d", "postgres", "-c"]
    try:
        answer = _as_owner([*psql, "SELECT NOT pg_is_in_recovery()"], stdout=subprocess.PIPE).stdout
    except BenchmarkError:
        # While it replays WAL it takes no connections, and pg_ctl does not wait for the end of that.
        return False
    return bool(answer == b"t\n")


def _bare_backup(primary: str, replica: str, directory: Path) -> None:
    """The commands of backup_database, one after the other, by hand, on the hosts that it has."""
    _pgbackrest(primary, "check")
    _pgbackrest(replica, "--type=full", "--process-max=2", "--backup-standby", "backup")
    dump = [str(paths.POSTGRES_BIN / "pg_dump"), "--format=directory", "--jobs=2", "--compress=1", "--no-sync"]
    _as_owner([*dump, f"--file={directory}", *_server(replica), DATABASE])
    _as_owner([str(paths.POSTGRES_BIN / "pg_restore"), "--file=/dev/null", str(directory)])
    client = inventory.storage_client()
    for file in directory.iterdir():
        client.upload_file(str(file), BUCKET, f"benchmark/dump/{file.name}")
    _pgbackrest(primary, "check")
    _pgbackrest(replica, "--output=text", "--verbose", "--process-max=2", "verify")
    _pgbackrest(replica, "--repo1-retention-full-type=time", "--repo1-retention-full=30", "expire")
    for file in directory.iterdir():
        client.delete_object(Bucket=BUCKET, Key=f"benchmark/dump/{file.name}")


def _bare_restore_test(host: str, label: str, data: Path) -> None:
    """The commands of verify_backups, by hand: restore, replay all WAL, pg_amcheck, pg_checksums."""
    _pgbackrest(host, "check")
    with _restored(host, label, data, "--type=default") as socket:
        amcheck = [str(paths.POSTGRES_BIN / "pg_amcheck"), "--all", "--heapallindexed", "--install-missing", "--jobs=2"]
        _as_owner([*amcheck, f"--host={socket}"], stdout=subprocess.DEVNULL)
        stop = [str(paths.POSTGRES_BIN / "pg_ctl"), "--pgdata", str(data), "--wait", "--mode=fast", "stop"]
        _as_owner(stop, stdout=subprocess.DEVNULL)
        checksums = [str(paths.POSTGRES_BIN / "pg_checksums"), "--check", "--pgdata", str(data)]
        _as_owner(checksums, stdout=subprocess.DEVNULL)
