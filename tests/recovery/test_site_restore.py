"""A cluster made anew from a repository: all of it to the last archived record, or its critical tables first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from sebenza_ops.backup.dump_steps import dump_database
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.changes import run_key
from sebenza_ops.environments.models import Host
from sebenza_ops.recovery import database_restore_steps as restoring
from sebenza_ops.recovery import disaster_repository
from sebenza_ops.recovery.disaster_repository import RestoreSource, find_source
from sebenza_ops.recovery.partial_rules import Parts, differences, parse_contents, split
from sebenza_ops.recovery.point_plan import bring_up_to_date
from sebenza_ops.recovery.run_record import JobFailedError, await_job
from sebenza_ops.systems.drill_instance import RepositoryKeys
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.site_restore import SiteRestore
from sebenza_ops.systems.ssh import HostSession
from tests.backup.repository_server import BINARIES, CIPHER, KEY, SECRET, RepositoryServer
from tests.recovery.repository import RestorableServer
from tests.recovery.test_database_restore import reach_by_itself

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]

KEYS = RepositoryKeys(CIPHER, KEY, SECRET)
CRITICAL = ("public.invoices",)
SCHEMA = """
CREATE ROLE shop LOGIN;
CREATE TABLE users (id int PRIMARY KEY, name text);
CREATE TABLE invoices (id int PRIMARY KEY, user_id int NOT NULL REFERENCES users (id), cents bigint);
CREATE TABLE visits (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id int NOT NULL REFERENCES users (id));
CREATE TABLE schema_migrations (number int PRIMARY KEY, finished_at timestamptz);
CREATE VIEW visitors AS SELECT name, count(*) AS visits FROM visits JOIN users ON users.id = user_id GROUP BY name;
INSERT INTO users SELECT n, 'user ' || n FROM generate_series(1, 100) n;
INSERT INTO invoices SELECT n, n % 100 + 1, n FROM generate_series(1, 1000) n;
INSERT INTO visits (user_id) SELECT n % 100 + 1 FROM generate_series(1, 5000) n;
INSERT INTO schema_migrations VALUES (3, now());
ALTER TABLE users OWNER TO shop; ALTER TABLE invoices OWNER TO shop; ALTER TABLE visits OWNER TO shop;
ALTER VIEW visitors OWNER TO shop;
CREATE ROLE reader LOGIN;
GRANT SELECT ON visits TO reader;
ALTER DATABASE sebenza_logistics SET work_mem = '7MB';
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestorableServer]:
    """A set with its dump; ten invoices came afterwards, and were archived."""
    server = RestorableServer(tmp_path_factory.mktemp("ledger"))
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            reach(server, patch)
            with server.connect() as connection:
                connection.execute(SCHEMA)
            made = server.back_up()
            run = server.run("backup_database")
            plan = BackupPlan(
                environment="production", job=run_key(run.holder), backup_type="full", reason="a test", host="db1",
                primary="db1", from_replica=False,
            )  # fmt: skip
            dump_database(run, plan, made.label)
            with server.connect() as connection:
                connection.execute("INSERT INTO invoices SELECT n, 1, n FROM generate_series(2001, 2010) n")
            bring_up_to_date(run, server.ways, run.fence)
        yield server
    finally:
        server.stop()


def reach(server: RestorableServer, patch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_session(host: Host, _: str) -> Iterator[HostSession]:
        assert host.name == "db1"
        yield server.session

    reach_by_itself(server, patch)
    patch.setattr(disaster_repository, "open_session", open_session)
    for name, value in (("CIPHER", {"conn_type": "generic", "password": CIPHER}), ("REPOSITORY", repository())):
        patch.setenv(f"AIRFLOW_CONN_SEBENZA_PRODUCTION_BACKUP_{name}", json.dumps(value))


def repository() -> dict[str, Any]:
    return {"conn_type": "aws", "login": KEY, "password": SECRET}


@pytest.fixture(autouse=True)
def reachable(server: RestorableServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(server, monkeypatch)


@pytest.fixture
def source(server: RestorableServer) -> RestoreSource:
    found = find_source(server.run("disaster_recovery"), "primary", "db1")
    return found.model_copy(update={"key": uuid4().hex})


def copy_of(server: RestorableServer, source: RestoreSource) -> SiteRestore:
    return SiteRestore(server.environment, server.session, source.key)


def restored(
    server: RestorableServer, source: RestoreSource, keys: RepositoryKeys = KEYS, *, all_of_it: bool
) -> SiteRestore:
    copy = copy_of(server, source)
    copy.begin(
        server.fence(),
        keys,
        source.label if all_of_it else source.dump,
        count_lsn=source.count_lsn if all_of_it else "",
        end_lsn=source.end_lsn if all_of_it else "",
        timeline=source.timeline,
        need_bytes=1024,
    )
    await_job(copy.status, "the restore", "db1", 120)
    return copy


class Instance:
    """A restored cluster, running for a test on its own socket."""

    def __init__(self, server: RepositoryServer, data: str) -> None:
        self.server, self.data, self.socket = server, data, f"{server.root}/run"

    def __enter__(self) -> Instance:
        options = f"-k {self.socket} -c listen_addresses= -c archive_mode=off"
        log = f"{self.server.root}/log/restored.log"
        self.server._run("pg_ctl", "start", "--wait", "--pgdata", self.data, "--log", log, "--options", options)
        return self

    def __exit__(self, *_: object) -> None:
        self.server._run("pg_ctl", "stop", "--wait", "--mode", "fast", "--pgdata", self.data)

    def connect(self, user: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(host=self.socket, dbname="sebenza_logistics", user=user, autocommit=True)

    def value(self, statement: str, user: str = "postgres") -> Any:
        with self.connect(user) as connection:
            row = connection.execute(statement).fetchone()
        return row[0] if row else None


def test_all_of_it_is_brought_to_the_last_archived_record_and_compared_on_the_way(
    server: RestorableServer, source: RestoreSource
) -> None:
    assert (source.label, source.timeline) == (source.dump, 1)
    assert source.manifest
    assert source.loss(source.last_commit_at + 40 if source.last_commit_at else 0, "now").seconds == 40
    copy = restored(server, source, all_of_it=True)
    report = copy.site_report()
    # At the manifest's position, before the ten that came later.
    assert dict(report.rows) == {
        "public.users": 100, "public.invoices": 1000, "public.visits": 5000, "public.schema_migrations": 1,
    }  # fmt: skip
    assert report.last_commit_at == pytest.approx(source.last_commit_at, abs=0.001)
    assert report.timeline == 2
    with Instance(server, copy.restored) as found:
        assert found.value("SELECT count(*) FROM invoices") == 1010
    # Nothing is there in whose place it could be put: the disk of the standby is another one now.
    assert copy.stage() == "before"
    Path(copy.data).rename(f"{copy.data}.gone")
    try:
        assert copy.put_in(server.fence(), source.system_identifier) == "swapped"
        assert (copy.stage(), copy.put_in(server.fence(), source.system_identifier)) == ("after", "already")
        assert list(Path(copy.aside).iterdir()) == []
        kept = Path(copy.data, "postgresql.auto.conf").read_text()
        assert "restore_command" not in kept
        assert "recovery_target" not in kept
    finally:
        Path(copy.data).rename(copy.restored)
        Path(f"{copy.data}.gone").rename(copy.data)
        Path(copy.aside).rmdir()
    assert copy.discard(server.fence()) == "removed"
    assert not list(server.root.rglob("*-look/pgbackrest.conf")), "keys were left on the host"


def test_the_critical_tables_serve_before_the_rest_is_there(server: RestorableServer, source: RestoreSource) -> None:
    copy, storage = copy_of(server, source), ObjectStorage(server.environment.object_store)
    manifest = restoring.read_manifest(storage, source.dump_manifest)
    copy.fetch(storage, [piece for piece in manifest.pieces if piece.name.endswith("toc.dat")])
    parts: Parts = split(parse_contents(copy.contents()), CRITICAL)
    assert parts.tables == {"public.invoices", "public.users", "public.schema_migrations"}
    copy.fetch(storage, [piece for piece in manifest.pieces if parts.is_first(piece.name)])
    copy.write_lists(parts.lists())
    restored(server, source, all_of_it=False)
    report = copy.site_report()
    assert differences(manifest.rows, report.rows, parts.tables) == []
    assert report.system_identifier == source.system_identifier
    work_dir = Path(copy._work_dir)
    with Instance(server, copy.restored) as first:
        assert first.value("SELECT count(*) FROM invoices JOIN users ON users.id = user_id", "shop") == 1000
        assert first.value("SHOW work_mem") == "7MB"
        assert first.value("SELECT to_regclass('visits')") is None
        with first.connect("shop") as users:
            users.execute("INSERT INTO users VALUES (101, 'new')")
            users.execute("UPDATE users SET name = 'renamed' WHERE id = 1")
            for forbidden in ("DELETE FROM users WHERE id = 2", "UPDATE users SET id = 200 WHERE id = 2"):
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="the rest of the database"):
                    users.execute(forbidden)
            users.execute("DELETE FROM invoices WHERE id = 7")
        copy.fetch(storage, manifest.pieces)
        copy._server = [first.socket, "5432"]
        copy.begin_rest(server.fence())
        await_job(copy.rest_status, "the rest", "db1", 120)
        later = manifest.rows.keys() - parts.tables
        assert differences(manifest.rows, copy.rest_rows(), later) == []
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            first.value("SELECT count(*) FROM visits", "shop")
        assert copy.publish_rest(server.fence()) == "published"
        assert copy.publish_rest(server.fence()) == "already"
        assert first.value("SELECT count(*) FROM visits", "shop") == 5000
        assert first.value("SELECT count(*) FROM visits", "reader") == 5000
        assert first.value("SELECT sum(visits) FROM visitors", "shop") == 5000
        with first.connect("shop") as users, pytest.raises(psycopg.errors.ForeignKeyViolation):
            users.execute("DELETE FROM users WHERE id = 2")
        assert first.value("SELECT name FROM users WHERE id = 1") == "renamed"
        copy.forget_dump()
        assert not (work_dir / copy.job).exists()
        # Cleared afterwards, the task finds that all is done.
        copy.fetch(storage, manifest.pieces)
        assert copy.begin_rest(server.fence()) == "done"
        assert copy.publish_rest(server.fence()) == "already"
    copy.discard(server.fence())


def test_what_the_keys_do_not_open_or_the_archive_does_not_reach_is_never_put_in(
    server: RestorableServer, source: RestoreSource
) -> None:
    wrong = RepositoryKeys("another passphrase", KEY, SECRET)
    with pytest.raises(JobFailedError):
        restored(server, source.model_copy(update={"key": uuid4().hex}), wrong, all_of_it=True)
    beyond = source.model_copy(update={"key": uuid4().hex, "end_lsn": "7F/0"})
    with pytest.raises(JobFailedError, match="recovery ended before configured recovery target was reached"):
        restored(server, beyond, all_of_it=True)
    assert not Path(copy_of(server, beyond).restored).exists()
    # With no cluster at all on the host, which pgBackRest reads no WAL without.
    Path(copy_of(server, source).data).rename(f"{server.root}/data.gone")
    try:
        again = find_source(server.run("disaster_recovery"), "primary", "db1")
    finally:
        Path(f"{server.root}/data.gone").rename(copy_of(server, source).data)
    assert again.model_copy(update={"key": source.key}) == source
    assert not list(server.root.rglob("*-look/pg")), "a cluster was left on the host"
    with pytest.MonkeyPatch.context() as patch:
        reach(server, patch)
        patch.setenv("AIRFLOW_CONN_SEBENZA_PRODUCTION_BACKUP_CIPHER", '{"conn_type": "generic", "password": "other"}')
        with pytest.raises(NoDataError, match="is the passphrase the one it was made with"):
            find_source(server.run("disaster_recovery"), "primary", "db1")
    assert BINARIES.exists()
