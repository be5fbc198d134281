"""A backup restored beside, compared, and put in the database's place: on a real PostgreSQL, killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lab.waiting import scaled
from sebenza_ops.systems.database_copy import (
    DatabaseDescription,
    RestoreStatus,
    parse_description,
    parse_restore_status,
)
from tests.hosts.artifact_server import ArtifactServer, artifact_server, sha256
from tests.hosts.scripts import command, run
from tests.lab.application_fixtures import RedisServer
from tests.postgres_server import BINARIES, PostgresServer
from tests.systems.processes import command_line, until

pytestmark = pytest.mark.integration

ROLE = "app"
SCHEMA = """
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,
  created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE lines (id serial PRIMARY KEY, name text);
CREATE TABLE notes (name text);
CREATE TABLE untouched (name text);
INSERT INTO orders (name, created_at, updated_at) SELECT 'o' || n, now() - interval '1 hour', now() - interval '1 hour'
  FROM generate_series(1, 100) n;
INSERT INTO lines (name) SELECT 'l' || n FROM generate_series(1, 50) n;
INSERT INTO notes SELECT 'n' || n FROM generate_series(1, 10) n;
GRANT SELECT ON orders TO reader;
"""
SINCE = """
INSERT INTO orders (name) VALUES ('new'), ('newer');
UPDATE orders SET updated_at = now() WHERE id = 1;
INSERT INTO lines (name) VALUES ('new'), ('newer'), ('newest');
DELETE FROM notes WHERE name = 'n1';
CREATE TABLE added (name text);
INSERT INTO added VALUES ('a');
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    found = PostgresServer()
    found.start()
    try:
        with connect(found, "postgres", "postgres") as connection:
            connection.execute(f"CREATE ROLE {ROLE} LOGIN CREATEDB")
            connection.execute("CREATE ROLE reader LOGIN")
        yield found
    finally:
        found.stop()


def connect(server: PostgresServer, name: str, user: str = ROLE) -> psycopg.Connection[Any]:
    return psycopg.connect(host=str(server.directory), dbname=name, user=user, autocommit=True)


class Shop:
    """A database, a backup of it, and what was written since."""

    def __init__(self, server: PostgresServer, name: str, directory: Path, web: ArtifactServer) -> None:
        self.server, self.name, self.directory, self.web = server, name, directory, web
        self.restored, self.aside = f"{name}_rb_20261125100000", f"{name}_before_20261125100000"
        with connect(server, "postgres", "postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {ROLE} CONNECTION LIMIT 40")
            connection.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")
            connection.execute(f"ALTER DATABASE {name} SET work_mem = '5MB'")
            connection.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
            connection.execute(f"GRANT CONNECT ON DATABASE {name} TO reader")
        with connect(server, name, "postgres") as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
        with connect(server, name) as connection:
            connection.execute(SCHEMA)
        dump = subprocess.run(
            [str(BINARIES / "pg_dump"), "--format=custom", "--host", str(server.directory), "-U", ROLE, name],
            check=True,
            capture_output=True,
        )
        self.dump = dump.stdout
        web.files["/backup"] = self.dump
        with connect(server, name) as connection:
            connection.execute(SINCE)

    @property
    def job(self) -> Path:
        return self.directory / "work" / self.restored

    def login(self, version: int = 15) -> list[object]:
        return [version, self.server.directory, 5432, ROLE]

    def start(self, *, sha: str = "", restored: str = "", shell: str = "dash") -> subprocess.CompletedProcess[str]:
        place = [self.directory / "work", self.restored, *self.login(), self.name, restored or self.restored]
        given = [sha or sha256(self.dump), len(self.dump), 60]
        return run("restore_start", *place, *given, stdin=f"none\n{self.web.source('/backup')}", shell=shell)

    def status(self) -> RestoreStatus:
        return parse_restore_status(run("dump_status", self.directory / "work", self.restored).stdout, "db1")

    def ended(self) -> RestoreStatus:
        until(lambda: self.status().state != "running", "the restore has ended", 60)
        return self.status()

    def made(self) -> RestoreStatus:
        assert self.start().stdout.strip() == "started"
        status = self.ended()
        assert status.state == "done", status.log_tail
        return status

    def describe(self, database: str, before: str = "", shell: str = "dash") -> DatabaseDescription:
        done = run("database_describe", *self.login(), database, stdin=f"none\n{before}", shell=shell)
        assert done.returncode == 0, done.stderr
        return parse_description(done.stdout, "db1")

    def swap_arguments(
        self, oid: int, *, token: int = 7, seconds_left: int = 60, patience: int = 5, version: int = 15
    ) -> list[object]:
        names = [self.name, self.restored, self.aside]
        fence = [self.directory / "state", "production", token, "dag/run"]
        return [*fence, *self.login(version), *names, oid, int(time.time()) + seconds_left, patience]

    def swap(self, oid: int, *, shell: str = "dash", **options: Any) -> subprocess.CompletedProcess[str]:
        return run("database_swap", *self.swap_arguments(oid, **options), stdin="none\n", shell=shell)

    def settle(self) -> list[str]:
        names = [self.name, self.restored, self.aside]
        fence = [self.directory / "state", "production", 7, "dag/run"]
        done = run("database_settle", *fence, *self.login(), *names, stdin="none\n")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def there(self) -> dict[str, bool]:
        """The databases of this shop that there are, and whether they let users in."""
        with connect(self.server, "postgres") as connection:
            query = "SELECT datname, datallowconn FROM pg_database WHERE datname LIKE %s ORDER BY 1"
            return {str(name): bool(opened) for name, opened in connection.execute(query, [f"{self.name}%"])}

    def orders(self, database: str) -> int:
        with connect(self.server, database) as connection:
            row = connection.execute("SELECT count(*) FROM orders").fetchone()
            assert row is not None
            return int(row[0])


@pytest.fixture
def shop(server: PostgresServer, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:
    name = f"shop_{abs(hash(request.node.name)) % 10**8}"
    with artifact_server(tmp_path) as web:
        found = Shop(server, name, tmp_path, web)
        yield found
        with connect(server, "postgres", "postgres") as connection:
            for one in found.there():
                connection.execute(f"DROP DATABASE {one} WITH (FORCE)")


def test_a_backup_is_restored_beside_compared_and_put_in_its_place(shop: Shop, shell: str) -> None:
    assert shop.start(shell=shell).stdout.strip() == "started"
    status = shop.ended()
    assert status.state == "done", status.log_tail
    assert shop.start().stdout.strip() == "done", "a retry restores a second time"
    assert not (shop.job / "backup.pgc").exists(), "a dump of customers' data is left on the host"

    then = shop.describe(shop.restored, shell=shell)
    now = shop.describe(shop.name, then.text, shell=shell)
    assert then.oid == status.oid
    assert (then.properties, then.settings, then.grants) == (now.properties, now.settings, now.grants)
    assert now.settings == {"search_path=public, pg_catalog", "work_mem=5MB"}
    assert now.extensions - then.extensions == {"pg_stat_statements"}
    assert then.tables["public.orders"].grants == now.tables["public.orders"].grants
    written = {name: (table.rows, table.written, table.changed, table.by) for name, table in now.tables.items()}
    assert written == {
        "public.added": (1, 1, None, "all"),
        "public.lines": (53, 3, None, "id"),
        "public.notes": (9, None, None, ""),
        "public.orders": (102, 2, 3, "created_at"),
        "public.untouched": (0, 0, None, "all"),
    }
    assert then.tables["public.notes"].rows == 10

    # A user at work, and one who comes back at once, as an application's pool does.
    with connect(shop.server, shop.name) as user:
        began = time.monotonic()
        done = shop.swap(status.oid, shell=shell)
        took_seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        with pytest.raises(psycopg.OperationalError):
            user.execute("SELECT 1")
    found = json.loads(done.stdout)
    assert (found["state"], found["oid"]) == ("swapped", status.oid)
    # It tells tenths.
    assert 0 <= found["interrupted_seconds"] <= took_seconds + 0.1, "it is not the interruption that is measured"
    assert shop.there() == {shop.name: True, shop.aside: True}
    assert (shop.orders(shop.name), shop.orders(shop.aside)) == (100, 102), "rows were lost, or are not back"
    again = shop.swap(status.oid, shell=shell)
    assert json.loads(again.stdout)["state"] == "already"
    assert shop.settle() == ["exchanged"]
    assert shop.there() == {shop.name: True, shop.aside: True}


def test_users_who_come_back_without_end_do_not_stop_it(shop: Shop) -> None:
    oid = shop.made().oid
    over = threading.Event()
    seen: set[int] = set()

    def use() -> None:
        while not over.is_set():
            try:
                seen.add(shop.orders(shop.name))
            except psycopg.OperationalError:
                time.sleep(0.01)

    users = [threading.Thread(target=use) for _ in range(4)]
    for user in users:
        user.start()
    try:
        until(lambda: 102 in seen, "users work")
        done = shop.swap(oid)
        assert done.returncode == 0, done.stderr
        until(lambda: 100 in seen, "users work on the restored database")
    finally:
        over.set()
        for user in users:
            user.join()


def test_sessions_that_can_not_be_ended_let_users_in_again(shop: Shop) -> None:
    oid = shop.made().oid
    with connect(shop.server, shop.name, "postgres") as superuser:
        superuser.execute("SET application_name = 'a dba'")
        done = shop.swap(oid, patience=1)
        assert superuser.execute("SELECT 1").fetchone() == (1,)
    assert done.returncode == 3, done
    assert "a dba" in done.stderr
    assert shop.there() == {shop.name: True, shop.restored: True}
    assert shop.swap(oid).returncode == 0, "it can't be tried again"


def test_killed_between_its_statements_it_is_gone_on_with(shop: Shop) -> None:
    oid = shop.made().oid
    with connect(shop.server, shop.name, "postgres"):
        argv = command("dash", "database_swap", shop.swap_arguments(oid, patience=60))
        swapping = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
        until(lambda: not shop.there()[shop.name], "users are refused")
        # A host that ends a session ends its commands politely first: that is no reason to stop half way.
        os.killpg(swapping.pid, signal.SIGHUP)
        os.kill(swapping.pid, signal.SIGTERM)
        assert swapping.poll() is None
        os.killpg(swapping.pid, signal.SIGKILL)
        swapping.wait(scaled(10))
    assert shop.there() == {shop.name: False, shop.restored: False}
    done = shop.swap(oid)
    assert done.returncode == 0, done.stderr
    assert shop.there() == {shop.name: True, shop.aside: True}
    assert shop.orders(shop.name) == 100


@pytest.mark.parametrize("lost_at", ["ALLOW_CONNECTIONS false", "RENAME"])
def test_a_connection_that_is_lost_in_the_middle_keeps_nobody_out(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost_at: str
) -> None:
    oid = shop.made().oid
    stub = tmp_path / "bin" / "psql"
    stub.parent.mkdir()
    # The server has done what it was told, and the answer is lost.
    stub.write_text(
        f"""#!/bin/sh
        case " $* " in *" -c "*) exec {BINARIES}/psql "$@" ;; esac
        given=$(cat)
        printf '%s\\n' "$given" | {BINARIES}/psql "$@" || exit
        case $given in *"{lost_at}"*) echo "connection lost" >&2; exit 2 ;; esac
        """
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    done = shop.swap(oid, version=99)
    if lost_at == "RENAME":
        assert json.loads(done.stdout)["state"] == "swapped", done.stderr
        assert shop.there() == {shop.name: True, shop.aside: True}
    else:
        assert done.returncode == 2
        assert shop.there() == {shop.name: True, shop.restored: True}
        assert shop.orders(shop.name) == 102


def test_at_the_end_users_are_let_in_and_an_unused_copy_is_removed(shop: Shop) -> None:
    shop.made()
    with connect(shop.server, "postgres") as connection:
        connection.execute(f"ALTER DATABASE {shop.name} ALLOW_CONNECTIONS false")
    said = shop.settle()
    assert said[0] == "unchanged"
    assert f"{shop.name} lets users in again" in said
    assert shop.there() == {shop.name: True}
    assert shop.orders(shop.name) == 102


def test_what_was_renamed_by_half_by_hand_is_finished(shop: Shop) -> None:
    oid = shop.made().oid
    with connect(shop.server, "postgres") as connection:
        connection.execute(f"ALTER DATABASE {shop.name} RENAME TO {shop.aside}")
    done = shop.swap(oid)
    assert json.loads(done.stdout)["state"] == "resumed"
    assert shop.there() == {shop.name: True, shop.aside: True}


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        ({"token": 5}, 77, "token 5 is lower than 6"),
        ({"seconds_left": -1}, 1, "it came too late, nothing was changed"),
    ],
)
def test_a_zombie_s_exchange_changes_nothing(shop: Shop, options: dict[str, Any], status: int, text: str) -> None:
    oid = shop.made().oid
    assert run("fence_raise", shop.directory / "state", "production", 6, "dag/later").returncode == 0
    done = shop.swap(oid, **options)
    assert (done.returncode, text in done.stderr) == (status, True), done
    assert shop.there() == {shop.name: True, shop.restored: True}


def test_another_database_of_that_name_is_never_put_there(shop: Shop) -> None:
    oid = shop.made().oid
    done = shop.swap(oid + 1)
    assert done.returncode == 1
    assert "the databases are not as expected" in done.stderr
    assert shop.there() == {shop.name: True, shop.restored: True}
    refused = shop.start(restored="postgres")
    assert "is no name of a restored copy" in refused.stderr


def test_a_backup_that_was_changed_is_not_restored(shop: Shop) -> None:
    shop.start(sha="0" * 64)
    status = shop.ended()
    assert status.state == "failed"
    assert "its manifest says" in status.log_tail
    assert shop.there() == {shop.name: True}


def test_half_a_copy_is_removed_and_made_anew(shop: Shop) -> None:
    with connect(shop.server, "postgres", "postgres") as connection:
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger")
    with connect(shop.server, shop.name, "postgres") as connection:
        connection.execute("ALTER TABLE notes OWNER TO stranger")
        connection.execute("GRANT SELECT ON notes TO app")
    dump = [str(BINARIES / "pg_dump"), "--format=custom", "--host", str(shop.server.directory), "-U", "postgres"]
    good, shop.dump = shop.dump, subprocess.run([*dump, shop.name], check=True, capture_output=True).stdout
    shop.web.files["/backup"] = shop.dump
    shop.start()
    status = shop.ended()
    assert status.state == "failed"
    assert "stranger" in status.log_tail
    assert shop.there() == {shop.name: True}, "half a copy was left"
    shop.dump = good
    shop.web.files["/backup"] = good
    shop.made()


def test_a_restore_that_is_killed_is_made_anew(shop: Shop) -> None:
    with connect(shop.server, "postgres", "postgres") as connection:
        # It waits: a database can't be copied from one that is being changed.
        connection.execute(f"CREATE DATABASE {shop.restored} OWNER {ROLE}")
    with connect(shop.server, shop.restored, "postgres"), connect(shop.server, "postgres", "postgres") as other:
        with other.transaction():
            other.execute(f"COMMENT ON DATABASE {shop.restored} IS 'held'")
            shop.start()
            until(lambda: bool(pids("DROP DATABASE", shop.restored)), "the restore is at work")
            for pid in pids("restore.sh", shop.restored) + pids("DROP DATABASE", shop.restored):
                os.kill(pid, signal.SIGKILL)
        until(lambda: shop.status().state == "absent", "all of it is dead")
    shop.made()


def pids(text: str, name: str) -> list[int]:
    found = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in found if text in command_line(pid) and name in command_line(pid)]


def test_a_role_without_createdb_is_told_what_it_needs(shop: Shop) -> None:
    oid = shop.made().oid
    with connect(shop.server, "postgres", "postgres") as connection:
        connection.execute(f"ALTER ROLE {ROLE} NOCREATEDB")
        try:
            done = shop.swap(oid)
        finally:
            connection.execute(f"ALTER ROLE {ROLE} CREATEDB")
    assert done.returncode == 1
    assert "must own" in done.stderr
    assert shop.there() == {shop.name: True, shop.restored: True}


def test_cached_rows_are_forgotten_and_nothing_else(tmp_path: Path, shell: str) -> None:
    redis = RedisServer(tmp_path)
    redis.start()
    node = Path(shutil.which("node") or "node").parent
    try:
        ask(redis, "CONFIG SET requirepass s3cr/et")
        ask(redis, "MSET " + " ".join(f"sebenza:1:invoices:{n} x" for n in range(1200)))
        ask(redis, "ZADD sebenza:active-users 1 somebody")
        arguments = [tmp_path / "state", "production", 3, "dag/run", node, "sebenza:[0-9]*:*"]
        url = f"redis://:s3cr%2Fet@127.0.0.1:{redis.port}/0"
        done = run("cache_forget", *arguments, stdin=f"{url}\n", shell=shell)
        assert (done.returncode, done.stdout.strip()) == (0, "1200"), done.stderr
        assert ask(redis, "KEYS *") == ["sebenza:active-users"]
        wrong = run("cache_forget", *arguments, stdin=url.replace("s3cr", "other"), shell=shell)
        assert wrong.returncode == 1
        assert "the cache refused AUTH" in wrong.stderr
        assert "other" not in wrong.stderr, "a password is in the message"
        late = run("cache_forget", tmp_path / "state", "production", 2, *arguments[3:], stdin=url, shell=shell)
        assert late.returncode == 77
    finally:
        redis.stop()
    gone = run("cache_forget", *arguments, stdin=url, shell=shell)
    assert gone.returncode == 1
    assert "ECONNREFUSED" in gone.stderr


def ask(redis: RedisServer, words: str) -> list[str]:
    argv = ["redis-cli", "-p", str(redis.port), "-a", "s3cr/et", "--no-auth-warning"]
    done = subprocess.run([*argv, *words.split()], check=True, capture_output=True, text=True)
    return done.stdout.split()
