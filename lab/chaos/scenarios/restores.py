"""Verifications and restores into a new database: damaged repositories, storage and disks that fail, kills."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from psycopg2 import sql

from lab import faults, paths, postgres
from lab.accounts import DATABASE_USER, write_as
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.run import MissedStateError, Run
from lab.chaos.scenario import RESTORE_DATABASE, VERIFY, Scenario
from lab.chaos.scenarios.backup_kills import scenario
from lab.chaos.scenarios.kills import WHO, kill
from lab.inventory import storage_client
from lab.storage import BUCKET

_WORK_DIR: Final = "var/lib/sebenza-backup"
TARGET: Final = "sebenza_chaos"
_LEASES: Final = ("production", "production.backup", "production.sets")


def verify(drill: Drill, **conf: Any) -> Run:
    """Start a verification, which reads the whole repository back unless told otherwise."""
    drill.stage.switch_on(VERIFY)
    return drill.follows(VERIFY, drill.stage.client.trigger(VERIFY, {"repository": "yes", **conf}))


def restore(drill: Drill, **conf: Any) -> Run:
    """Start a restore into a new database, which is dropped afterwards."""
    drill.stack.callback(_drop, TARGET)
    values = {"target_database": TARGET, **conf}
    return drill.follows(RESTORE_DATABASE, drill.stage.client.trigger(RESTORE_DATABASE, values))


def _drop(name: str) -> None:
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _databases() -> set[str]:
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute("SELECT datname FROM pg_database")
        return {str(name) for (name,) in cursor.fetchall()}


def nothing_left(drill: Drill) -> None:
    """No scratch instance, no copy, no database without a name, no lease."""
    for host in ("db1", "db2"):
        work_dir = paths.host_files(host) / _WORK_DIR
        # Dumps of backups are kept there for some days, in directories of their own.
        left = [*work_dir.glob("*/data"), *work_dir.glob("*-database/dump")]
        left += postgres.data_directory(host).parent.glob("main.restored-*")
        drill.expect(not left, f"{host}: left behind: {[str(place) for place in left]}")
    half = [name for name in _databases() if name.startswith("sebenza_restore_")]
    drill.expect(not half, f"databases without a name were left: {half}")
    for name in _LEASES:
        drill.expect(drill.stage.records.open_lease(name) is None, f"the lease {name} is still held")


def _bad(drill: Drill) -> set[str]:
    return {each.label for each in drill.stage.records.catalog("production") if each.bad_reason}


def _corrupt_file(drill: Drill) -> None:
    """A bundle of the newest set has a wrong byte: nothing is based on it any more."""
    before, known = kept.ready(drill), _bad(drill)
    newest = list(before)[-1]
    fault = drill.breaks(faults.damage_backup("production", "bundle", "damaged"))
    run = verify(drill)
    drill.ends(run, "failed")
    damaged = _bad(drill) - known
    drill.expect(newest in damaged, f"{newest} is damaged, and the catalog calls {damaged or 'none'} bad")
    drill.expect(kept.told(drill, run.run_id, "damaged in the repository"), "people were not told what is damaged")
    nothing_left(drill)
    drill.ends(drill.back_up(), "success")
    made = list(kept.sets())[-1]
    drill.expect(made not in before, "no set was made afterwards")
    based_on = set(kept.needed_by(made)) & damaged
    drill.expect(not based_on, f"{made} is based on {based_on}, which is damaged")
    drill.note(f"bad: {', '.join(sorted(damaged))}; the next one, {made}, needs {kept.needed_by(made) or 'none'}")
    faults.mend(fault, wait_for_health=False)


def _missing_wal(drill: Drill) -> None:
    """A segment in the middle of the archive is gone: `pgbackrest verify` and `info` say that all is well."""
    kept.ready(drill)
    kept.catches_up(drill)
    segment = str(kept.archiver()["archived"])[:24]
    fault = drill.breaks(faults.damage_backup("production", "wal", "gone"))
    drill.expect(segment not in kept.archived_segments(), f"{segment} is still there")
    kept.write_wal(2)
    drill.until(lambda: kept.archiver()["waiting"] == 0, "the next ones are archived", kept.CATCH_UP_SECONDS)
    run = verify(drill)
    drill.ends(run, "failed")
    found = str(drill.stage.client.xcom(VERIFY, run.run_id, "check_repository"))
    drill.expect(segment in found, f"{segment} is not named: {found}")
    drill.expect(kept.told(drill, run.run_id, segment), f"people were not told of {segment}")
    nothing_left(drill)
    faults.mend(fault, wait_for_health=False)
    run.clear()
    drill.ends(run, "success")


@contextmanager
def _wrong_key(host: str) -> Iterator[None]:
    """A host's pgBackRest has another passphrase, as after a slip in its configuration."""
    file = paths.host_files(host) / "etc/pgbackrest.conf"
    before, mode = file.read_text(), file.stat().st_mode & 0o777
    lines = ["repo1-cipher-pass=another-one" if "cipher-pass" in line else line for line in before.splitlines()]
    write_as(file, "\n".join([*lines, ""]), DATABASE_USER, mode)
    try:
        yield
    finally:
        write_as(file, before, DATABASE_USER, mode)


def _encryption_key(drill: Drill) -> None:
    before = kept.ready(drill)
    known = _bad(drill)
    # What it begins by itself is over before.
    drill.stage.switch_on(VERIFY)
    with _wrong_key(kept.replica()):
        run = verify(drill)
        drill.ends(run, "failed")
        drill.expect("passphrase" in run.errors(), f"it is not said what may be wrong: {run.errors()}")
        drill.expect(_bad(drill) == known, f"sets are called bad that are not: {_bad(drill) - known}")
        nothing_left(drill)
    run.clear()
    drill.ends(run, "success")
    kept.judge(drill, before, new=0)


def _storage_down_while_restoring(drill: Drill) -> None:
    before = kept.ready(drill)
    run = verify(drill, repository="no")
    run.until(lambda: kept.works("restore"), "pgBackRest restores")
    fault = drill.breaks(faults.kill("storage", "rclone"))
    failed = kept.archiver()["failed"]
    kept.write_wal()
    drill.until(lambda: kept.archiver()["failed"] > failed, "a WAL segment could not be archived", 120)
    faults.mend(fault, wait_for_health=False)
    drill.ends(run, "success")
    kept.catches_up(drill)
    nothing_left(drill)
    kept.judge(drill, before, new=0)


def _scratch_disk_full(drill: Drill) -> None:
    before = kept.ready(drill)
    run = verify(drill, repository="no")
    run.until_done("plan_restore_test", "success")
    fault = drill.breaks(faults.fill_disk(kept.replica(), f"/{_WORK_DIR}"))
    run.until(lambda: run.tasks()["restore_set"].state == "up_for_retry", "the restore finds no room")
    faults.mend(fault, wait_for_health=False)
    drill.ends(run, "success")
    nothing_left(drill)
    kept.judge(drill, before, new=0)


def _target_exists(drill: Drill) -> None:
    kept.ready(drill)
    drill.stack.callback(_drop, TARGET)
    with postgres.connect(postgres.primary_of_production()) as cursor:
        cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TARGET)))
    with postgres.connect(postgres.primary_of_production(), TARGET) as cursor:
        cursor.execute("CREATE TABLE somebodys AS SELECT 42 AS answer")
    run = restore(drill)
    drill.ends(run, "failed")
    drill.expect("already, and it is not touched" in run.errors(), f"it is not said why: {run.errors()}")
    with postgres.connect(postgres.primary_of_production(), TARGET) as cursor:
        cursor.execute("SELECT answer FROM somebodys")
        drill.expect(cursor.fetchall() == [(42,)], "the database that was there was touched")
    nothing_left(drill)


def _is_right(drill: Drill, run: Run) -> None:
    """The new database has the rows of the set's manifest, which is read from object storage here."""
    label = str(run.progress()["restore_database"]["plan"]["label"])
    key = f"backups/database/production/{label}/manifest.json"
    manifest = json.loads(storage_client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    wrong = []
    with postgres.connect(postgres.primary_of_production(), TARGET) as cursor:
        for table, rows in manifest["rows"].items():
            cursor.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(*table.split(".", 1))))
            found = cursor.fetchone()[0]
            if found != rows:
                wrong.append(f"{table}: {found}, expected {rows}")
    drill.expect(not wrong, f"{TARGET} is not what was backed up: {wrong}")
    drill.note(f"{TARGET} has the rows of {label}")


def _restoring(source: str) -> Callable[[], bool]:
    return lambda: kept.works("restore") if source == "files" else kept.works("--dbname")


def _killed(who: str, source: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        kept.ready(drill)
        run = restore(drill, source=source)
        run.until(_restoring(source), "something is being restored")
        try:
            kill(run, "restore_into", who)
        except LookupError:
            raise MissedStateError("restore_into was over before it could be killed") from None
        drill.ends(run, "success")
        drill.expect(run.tasks()["restore_into"].try_number > 1, "restore_into was not killed")
        _is_right(drill, run)
        nothing_left(drill)

    return play


def _marked_failed(drill: Drill) -> None:
    kept.ready(drill)
    run = restore(drill, source="files")
    run.until(_restoring("files"), "something is being restored")
    run.mark_failed()
    drill.ends(run, "failed")
    run.failures = 1
    drill.expect(TARGET not in _databases(), f"there is a {TARGET}, of a run that was ended")
    nothing_left(drill)


def _storage_down_for_a_dump(drill: Drill) -> None:
    kept.ready(drill)
    run = restore(drill, source="dump")
    run.until_done("plan_restore", "success")
    fault = drill.breaks(faults.kill("storage", "rclone"))
    drill.ends(run, "failed")
    drill.expect(TARGET not in _databases(), f"there is a {TARGET}, of a run that has failed")
    nothing_left(drill)
    faults.mend(fault, wait_for_health=False)
    run.clear(["plan_restore"])
    drill.ends(run, "success")
    _is_right(drill, run)
    nothing_left(drill)


def _disk_full_for_a_dump(drill: Drill) -> None:
    kept.ready(drill)
    run = restore(drill, source="dump")
    run.until_done("plan_restore", "success")
    fault = drill.breaks(faults.fill_disk(postgres.primary_of_production(), f"/{_WORK_DIR}"))
    drill.ends(run, "failed")
    drill.expect(TARGET not in _databases(), f"there is a {TARGET}, of a run that has failed")
    faults.mend(fault, wait_for_health=False)
    run.clear(["plan_restore"])
    drill.ends(run, "success")
    _is_right(drill, run)
    nothing_left(drill)


def _verify(name: str, fault: str, expects: str, play: Callable[[Drill], None]) -> Scenario:
    return scenario(f"verify-{name}", fault, expects, play, VERIFY)


def _restore(name: str, fault: str, expects: str, play: Callable[[Drill], None]) -> Scenario:
    return scenario(f"restore-{name}", fault, expects, play, RESTORE_DATABASE)


_NOTHING_NEW: Final = "the run fails, people are told once, there is no new database and nothing else of it"
SCENARIOS: Final = (
    _verify(
        "corrupt-file",
        "a byte of the newest set's files is wrong in object storage",
        "it is found, named and told; the set is called bad, and the next backup is not based on it",
        _corrupt_file,
    ),
    _verify(
        "missing-wal",
        "a WAL segment in the middle of the archive is gone from object storage",
        "the segment is named and told, the run fails; put back, the cleared run succeeds",
        _missing_wal,
    ),
    _verify(
        "wrong-key",
        "pgBackRest on the replica has another passphrase than the repository",
        "the run fails and says what may be wrong, no set is called bad for it; with the right one it succeeds",
        _encryption_key,
    ),
    _verify(
        "storage-down",
        "the object storage is killed while a set is restored from it, and comes back",
        "the restore goes on or is tried again, the run succeeds, and nothing is left of either try",
        _storage_down_while_restoring,
    ),
    _verify(
        "disk-full",
        "the disk is full where the set is to be restored; there is room again after that has failed",
        "it is tried again, the run succeeds, and nothing is left",
        _scratch_disk_full,
    ),
    _restore(
        "target-exists",
        "a set is to be restored into a database that somebody uses",
        "it is refused before anything begins, and that database is untouched",
        _target_exists,
    ),
    *(
        _restore(
            f"{who}-killed-{source}",
            f"{WHO[who]} while {what}",
            "the next attempt finds what works on the host; the new database has the rows of the set's manifest",
            _killed(who, source),
        )
        for who in WHO
        for source, what in (("dump", "a dump is restored"), ("files", "the files of a set are restored"))
    ),
    _restore(
        "marked-failed",
        "the run is marked failed by hand while the files of a set are restored",
        _NOTHING_NEW,
        _marked_failed,
    ),
    _restore(
        "storage-down",
        "the object storage is down when the dump is to be fetched",
        f"{_NOTHING_NEW}; cleared with the storage back, it succeeds",
        _storage_down_for_a_dump,
    ),
    _restore(
        "disk-full",
        "the disk is full where the dump is to be fetched to",
        f"{_NOTHING_NEW}; cleared with room, it succeeds",
        _disk_full_for_a_dump,
    ),
)
