"""Testing migrations on a copy: a real PostgreSQL, real releases, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.waiting import scaled
from sebenza_ops.deployment.migration_test import SEPARATOR, TestedMigration, parse_test
from tests.hosts.artifact_server import ArtifactServer, artifact_server, sha256
from tests.hosts.scripts import command, run
from tests.lab.application_fixtures import NODE, Color, Estate, app_estate, app_releases, app_servers
from tests.systems.processes import until

__all__ = ["app_estate", "app_releases", "app_servers"]

pytestmark = [pytest.mark.integration, pytest.mark.slow]

STALE_SECONDS = 600


class Copies:
    """Copies of one color's database."""

    def __init__(self, estate: Estate, color: Color, work_dir: Path) -> None:
        self.estate, self.color, self.work_dir = estate, color, work_dir
        self.name = f"{color.database}_mtest_{int(time.time())}_0a1b2c3d"

    def arguments(self, user: str = "postgres", name: str = "") -> list[object]:
        server = [self.estate.database.directory, 5432, user, self.color.database]
        return [self.work_dir, 15, *server, name or self.name, STALE_SECONDS]

    def clone(self, user: str = "postgres", shell: str = "dash", name: str = "") -> subprocess.CompletedProcess[str]:
        return run("scratch_clone", *self.arguments(user, name), stdin="none\n", shell=shell, timeout_seconds=60)

    def drop(self, name: str = "", shell: str = "dash") -> subprocess.CompletedProcess[str]:
        return run("scratch_drop", *self.arguments(name=name)[1:-1], stdin="none\n", shell=shell)

    def there(self) -> list[str]:
        with self.estate.database.connect("postgres") as connection:
            query = "SELECT datname FROM pg_database WHERE datname LIKE %s"
            return [row[0] for row in connection.execute(query, [f"{self.color.database}\\_mtest%"])]


@pytest.fixture
def copies(app_estate: Estate, tmp_path: Path) -> Iterator[Copies]:
    found = Copies(app_estate, app_estate.migrated("v1.0.0"), tmp_path / "work")
    yield found
    with app_estate.database.connect("postgres") as connection:
        for name in found.there():
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_a_copy_has_the_same_rows_and_is_removed(copies: Copies, app_estate: Estate, shell: str) -> None:
    # Users work on while it is copied.
    with app_estate.database.connect(copies.color.database) as user, user.transaction():
        user.execute("UPDATE invoices SET status = status")
        done = copies.clone(shell=shell)
    assert done.returncode == 0, done.stderr
    counts = []
    for database in (copies.color.database, copies.name):
        with app_estate.database.connect(database) as connection:
            counts.append(connection.execute("SELECT count(*), sum(amount) FROM invoices").fetchone())
    assert counts[0] == counts[1]
    assert list(copies.work_dir.iterdir()) == [], "a dump of customers' data is left on the host"
    with app_estate.database.connect(copies.name) as held:
        held.execute("SELECT 1")
        dropped = copies.drop(shell=shell)
    assert dropped.returncode == 0, dropped.stderr
    assert copies.there() == []
    assert copies.drop(shell=shell).returncode == 0, "removing twice is an error"


def test_what_is_no_copy_is_never_removed_or_made(copies: Copies, shell: str) -> None:
    for name in (copies.color.database, "postgres", f"{copies.color.database}_other"):
        for refused in (copies.drop(name, shell), copies.clone(name=name, shell=shell)):
            assert refused.returncode == 1
            assert "is no name of a copy of" in refused.stderr


def test_a_copy_that_an_earlier_test_left_is_removed(copies: Copies, app_estate: Estate) -> None:
    prefix, now = f"{copies.color.database}_mtest_", int(time.time())
    old, young = f"{prefix}{now - STALE_SECONDS - 5}_0a1b2c3d", f"{prefix}{now - 5}_0a1b2c3e"
    for name in (old, young):
        app_estate.database.create_database(name)
    done = copies.clone()
    assert done.returncode == 0, done.stderr
    assert f"removed {old}" in done.stdout
    assert sorted(copies.there()) == sorted([young, copies.name]), "another test's copy was taken away, or none"


def test_a_role_that_may_not_create_databases_is_told_what_it_needs(copies: Copies, app_estate: Estate) -> None:
    with app_estate.database.connect(copies.color.database) as connection:
        connection.execute("DROP ROLE IF EXISTS plain")
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("GRANT pg_read_all_data TO plain")
    refused = copies.clone("plain")
    assert refused.returncode == 1
    assert 'ALTER ROLE "plain" CREATEDB' in refused.stderr


def test_what_only_a_superuser_may_create_is_left_out(copies: Copies, app_estate: Estate) -> None:
    with app_estate.database.connect(copies.color.database) as connection:
        connection.execute("CREATE EXTENSION pg_stat_statements")
        connection.execute("CREATE EXTENSION pgcrypto")
        connection.execute("DROP ROLE IF EXISTS maker")
        connection.execute("CREATE ROLE maker LOGIN CREATEDB")
        connection.execute("GRANT pg_read_all_data TO maker")
    done = copies.clone("maker")
    assert done.returncode == 0, done.stderr
    with app_estate.database.connect(copies.name) as connection:
        names = {row[0] for row in connection.execute("SELECT extname FROM pg_extension")}
    assert names == {"plpgsql", "pgcrypto"}


def test_a_copy_whose_making_is_ended_is_removed(copies: Copies, app_estate: Estate) -> None:
    with app_estate.database.connect(copies.color.database) as connection, connection.transaction():
        connection.execute("LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE")
        argv = ["timeout", "-k", "5", "60", *command("dash", "scratch_clone", copies.arguments())]
        making = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        until(lambda: copies.there() == [copies.name], "the copy is begun")
        os.killpg(making.pid, signal.SIGTERM)
        making.wait(scaled(20))
        until(lambda: copies.there() == [], "the copy is gone")
    assert list(copies.work_dir.iterdir()) == []


@pytest.fixture
def web(tmp_path: Path) -> Iterator[ArtifactServer]:
    with artifact_server(tmp_path) as server:
        yield server


class Test:
    """A release's migrations against a database, on a host with this releases directory."""

    __test__ = False

    def __init__(self, web: ArtifactServer, color: Color, directory: Path) -> None:
        self.web, self.color, self.releases_dir = web, color, directory / "srv" / "releases"
        archive = directory / "artifact.tar.gz"
        # With the modules that the builds of the fixtures share.
        subprocess.run(["tar", "-chzf", str(archive), "-C", str(color.release), "."], check=True)
        self.artifact = archive.read_bytes()
        web.files["/artifact"] = self.artifact

    def run(self, *, settings: str | None = None, shell: str = "dash") -> subprocess.CompletedProcess[str]:
        text = self.color.env_file.read_text() if settings is None else settings
        given = f"{self.web.source('/artifact').rstrip()}\n{SEPARATOR}\n{text}"
        place = [self.releases_dir, "v0-aaaaaaaaaaaa", sha256(self.artifact), len(self.artifact)]
        return run("migration_test", *place, Path(NODE).parent, 500, 5000, stdin=given, shell=shell, timeout_seconds=60)

    def found(self, shell: str = "dash") -> tuple[list[TestedMigration], str]:
        done = self.run(shell=shell)
        assert done.returncode == 0, done.stderr
        return parse_test("staging", done.stdout)


def test_pending_migrations_run_and_tell_their_locks(
    app_estate: Estate, web: ArtifactServer, tmp_path: Path, shell: str
) -> None:
    old = app_estate.migrated("v1.0.0")
    test = Test(web, app_estate.color("v1.4.1", old.database), tmp_path)
    ran, problem = test.found(shell)
    assert problem == ""
    assert [(one.number, one.phase) for one in ran] == [(2, "expand"), (3, "expand"), (6, "expand"), (4, "contract")]
    assert "AccessExclusiveLock invoices" in ran[0].blocking_locks
    assert ran[2].blocking_locks == (), "an index that is built beside users"
    assert list(test.releases_dir.iterdir()) == [], "the release was left on the host, or the settings were"


def test_a_migration_that_fails_is_told_in_its_own_words(
    app_estate: Estate, web: ArtifactServer, tmp_path: Path
) -> None:
    old = app_estate.migrated("v1.0.0")
    ran, problem = Test(web, app_estate.color("v1.3.5-bad-migration", old.database), tmp_path).found()
    assert [one.number for one in ran] == [2]
    assert "migration 5 (invoice_due_date) failed and was rolled back" in problem
    assert "invoices_minimum" in problem


def test_nothing_pending_is_a_result(app_estate: Estate, web: ArtifactServer, tmp_path: Path) -> None:
    color = app_estate.migrated("v1.1.0")
    assert Test(web, color, tmp_path).found() == ([], "")


def test_a_release_that_is_not_what_was_built_is_not_run(
    app_estate: Estate, web: ArtifactServer, tmp_path: Path
) -> None:
    test = Test(web, app_estate.migrated("v1.0.0"), tmp_path)
    web.files["/artifact"] = b"something else"
    done = test.run()
    assert done.returncode == 1
    assert "the artifact's SHA-256 is" in done.stderr
    shutil.rmtree(test.releases_dir)
    assert "no settings came" in test.run(settings="").stderr
