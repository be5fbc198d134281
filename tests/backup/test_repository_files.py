"""A file of the repository that is damaged, cut or gone is found: by the look, by verify, or by the archive check."""

from __future__ import annotations

import re
import time
from uuid import uuid4

import pytest

from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import PgBackRest, parse_verify
from sebenza_ops.systems.repository_files import parse_look
from tests.backup.repository_server import RepositoryServer
from tests.systems.processes import until


def made(server: RepositoryServer, backup_type: str) -> str:
    run, pgbackrest = uuid4().hex, PgBackRest(server.environment, server.session)
    pgbackrest.start_backup(server.fence(), f"{run}-backup", backup_type, run, from_replica=False)
    until(lambda: pgbackrest.status(f"{run}-backup").state != "running", "the backup has ended", 60)
    found = pgbackrest.info().of_run(run)
    assert found is not None
    return found.label


@pytest.fixture(scope="module")
def sets(server: RepositoryServer) -> tuple[str, str]:
    """A full set with a file too large for a bundle, and an incremental one; WAL before, between and after."""
    with server.connect() as connection:
        connection.execute("CREATE TABLE large AS SELECT n, md5(n::text) FROM generate_series(1, 100000) n")
        full = made(server, "full")
        connection.execute("INSERT INTO orders VALUES (0, 'between')")
        connection.execute("SELECT pg_switch_wal()")
        incremental = made(server, "incr")
        connection.execute("SELECT pg_switch_wal()")
    PgBackRest(server.environment, server.session).check()
    return full, incremental


def kind_of(path: str, sets: tuple[str, str]) -> str:
    """The file without what is its own: of each kind one is damaged."""
    path = path.replace(sets[1], "INCR").replace(sets[0], "FULL")
    return re.sub(r"[0-9A-F]{24}(-[0-9a-f]{40})?|\d+", "N", path)


def verified(server: RepositoryServer) -> list[str]:
    pgbackrest, job = PgBackRest(server.environment, server.session), f"{uuid4().hex}-verify"
    pgbackrest.start_verify(server.fence(), job)
    until(lambda: pgbackrest.status(job).state != "running", "verify has ended", 60)
    report = parse_verify(pgbackrest.output(job), "db1")
    archive = pgbackrest.archives()
    return [*report.damaged, *([report.archive] if report.archive else []), *([] if archive.is_whole else ["WAL"])]


def found(server: RepositoryServer) -> list[str]:
    """Whatever the first of the checks says that says something, in the order in which the procedure asks."""
    return PgBackRest(server.environment, server.session).look().texts() or verified(server)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
def test_each_kind_of_file_is_missed_cut_and_damaged(server: RepositoryServer, sets: tuple[str, str]) -> None:
    assert found(server) == []
    kinds: dict[str, str] = {}
    wal_of_sets = {each.wal_start for each in PgBackRest(server.environment, server.session).info().sets}
    for file in sorted(path for path in server.repository.rglob("*") if path.is_file()):
        path = str(file.relative_to(server.repository))
        # WAL from before the oldest set is of no use to anybody, and goes with the next expiration.
        if path.startswith("archive/") and file.name[:24] < min(wal_of_sets) and file.suffix == ".zst":
            continue
        kinds.setdefault(kind_of(path, sets), path)
    assert len(kinds) >= 15, kinds
    unseen = []
    for kind, path in kinds.items():
        file = server.repository / path
        content = file.read_bytes()
        middle = len(content) // 2
        damaged = content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
        for how, other in (("gone", None), ("cut", content[:middle]), ("damaged", damaged)):
            with server.changed(file, other):
                settle()
                if not found(server):
                    unseen.append(f"{kind} {how}")
            settle()
    assert unseen == []
    assert found(server) == []


def settle() -> None:
    """The tests' storage keeps listings for a second."""
    time.sleep(1.1)


LOOK = """pair same archive/main/archive.info
pair no-second backup/main/backup.info
note right archive/main/15-1/0000000200000000/000000020000000000000003.00000028.backup
pair same backup/main/20261125-225504F/backup.manifest
set 20261125-225504F .zst
wal 000000020000000000000003 000000020000000000000003
file {"bni":1,"bno":100,"repo-size":32,"size":3} pg_data/PG_VERSION
file {"bni":1,"bno":132,"size":8} pg_data/base/1/a=b
file {"repo-size":50,"size":90} pg_data/base/1/2
file {"size":0} pg_data/empty
list archive/main {"15-1/0000000200000000/000000020000000000000003.00000028.backup":{"type":"file","size":9},\
"15-1/0000000200000000/000000020000000000000003-5c404e4af6ad789b82d672626d0926f354c473c9.zst":\
{"type":"file","size":9}}
list backup/main {"20261125-225504F/bundle/1":{"type":"file","size":140},"20261125-225504F":{"type":"path"},\
"20261125-225504F/pg_data/base/1/2.zst":{"type":"file","size":50},\
"backup.history/2026/20261125-225504F.manifest.gz":{"type":"file","size":9}}
"""


def test_sizes_twins_and_histories_are_compared() -> None:
    look = parse_look(LOOK, "main", "db1")
    assert look.sets == {}
    assert look.shared == (
        "backup/main/backup.info is right, its copy is gone or damaged",
        "archive/main/: the history of timeline 00000002 is gone",
    )
    assert not look.is_cut
    cut = parse_look(LOOK.replace('"size":140', '"size":139'), "main", "db1")
    assert cut.is_cut
    assert cut.sets["20261125-225504F"] == ("backup/main/20261125-225504F/bundle/1 has 139 bytes, expected 140",)
    gone = parse_look(LOOK.replace("base/1/2.zst", "base/1/3.zst").replace(".manifest.gz", ".x"), "main", "db1")
    assert gone.sets["20261125-225504F"] == ("backup/main/20261125-225504F/pg_data/base/1/2.zst is gone",)
    other = parse_look(LOOK.replace("000000020000000000000003-", "000000020000000000000004-"), "main", "db1")
    assert other.sets["20261125-225504F"] == ("WAL segment 000000020000000000000003 is gone",)
    with pytest.raises(NoDataError, match="list of objects is missing"):
        parse_look("pair same archive/main/archive.info\n", "main", "db1")


@pytest.mark.integration
def test_a_verification_that_was_waited_for_does_not_look_again(server: RepositoryServer) -> None:
    pgbackrest, job = PgBackRest(server.environment, server.session), uuid4().hex
    before = pgbackrest.look(job)
    made(server, "full")
    settle()
    assert pgbackrest.look(job) == before
    assert pgbackrest.look().labels > before.labels
