"""The sample application's migrations, on a real PostgreSQL."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import waiting
from tests.lab.application_fixtures import NODE, Color, Estate

pytestmark = pytest.mark.integration


def status(color: Color) -> dict[int, str]:
    finished = color.run("migrate", "--json", "status")
    assert finished.returncode == 0, finished.stderr
    return {entry["number"]: entry["state"] for entry in json.loads(finished.stdout)}


def up(color: Color, phase: str = "expand") -> None:
    finished = color.run("migrate", "up", "--phase", phase)
    assert finished.returncode == 0, finished.stderr


def sibling(estate: Estate, tag: str, color: Color, name: str = "green") -> Color:
    """Another release on the same database."""
    return estate.color(tag, color.database, name)


def with_own_migrations(color: Color, directory: Path, files: dict[str, str]) -> Color:
    """The color on a copy of its release that has these migrations too."""
    shutil.copytree(color.release, directory, symlinks=True)
    for name, sql in files.items():
        (directory / "migrations" / name).write_text(sql)
    color.release = directory
    return color


def test_plan_changes_nothing_and_up_is_idempotent(app_estate: Estate) -> None:
    color = app_estate.color("v1.1.0", app_estate.database.create_numbered_database())
    assert status(color) == {1: "pending", 2: "pending"}
    planned = json.loads(color.run("migrate", "--json", "plan").stdout)
    assert [entry["number"] for entry in planned] == [1, 2]
    assert status(color) == {1: "pending", 2: "pending"}
    up(color)
    assert status(color) == {1: "applied", 2: "applied"}
    assert json.loads(color.run("migrate", "--json", "up").stdout) == []


def test_a_release_is_unhealthy_until_its_expand_migrations_are_applied(app_estate: Estate) -> None:
    old = app_estate.migrated("v1.0.0")
    new = sibling(app_estate, "v1.1.0", old)
    new.start(until_healthy=False)
    waiting.until(lambda: waiting.accepts_connections("127.0.0.1", new.port), "the worker listens")
    health = new.client.get("/health")
    assert health.status_code == 503
    assert health.json()["checks"]["database"]["message"].startswith("schema migrations not applied: 2")
    up(new)
    waiting.until(new.is_healthy, "the worker is healthy")


def test_old_and_new_release_work_side_by_side_on_the_new_schema(app_estate: Estate) -> None:
    old = app_estate.migrated("v1.0.0")
    new = sibling(app_estate, "v1.2.0", old)
    up(new)
    assert status(old) == {1: "applied", 2: "foreign", 3: "foreign"}
    old.start()
    new.start()
    made = [
        color.client.post("/api/v1/invoices", json={"clientId": "C-0001", "amountCents": 1999}).json()["id"]
        for color in (old, new)
    ]
    with app_estate.database.connect(old.database) as connection:
        rows = connection.execute(
            "SELECT amount::text, amount_cents FROM invoices WHERE id = ANY(%s)", [made]
        ).fetchall()
    assert rows == [("19.99", 1999)] * 2
    assert (
        new.client.post("/api/v1/projects", json={"name": "Now", "priority": "urgent"}).json()["priority"] == "urgent"
    )
    assert new.client.get("/api/v1/dashboard/metrics").json()["urgentProjects"] == 1


def test_contract_comes_only_when_asked_for_and_after_expand(app_estate: Estate) -> None:
    color = app_estate.color("v1.4.0-contract", app_estate.database.create_numbered_database())
    early = color.run("migrate", "up", "--phase", "contract")
    assert early.returncode == 1
    assert "expand migration 1 is not applied yet" in early.stderr
    up(color)
    assert status(color) == {1: "applied", 2: "applied", 3: "applied", 4: "pending"}
    assert color.run("seed").returncode == 0
    color.start()
    up(color, "contract")
    made = color.client.post("/api/v1/invoices", json={"clientId": "C-0001", "amountCents": 250})
    assert (made.status_code, made.json()["amount"]) == (201, "2.50")
    assert color.client.get("/api/v1/dashboard/metrics").status_code == 200

    def revision() -> object:
        return color.client.get("/health").json()["checks"]["database"]["schema_revision"]

    waiting.until(lambda: revision() == 4, "the health check sees the new schema")


def test_a_failing_migration_leaves_nothing_behind(app_estate: Estate) -> None:
    good = app_estate.migrated("v1.1.0")
    bad = sibling(app_estate, "v1.3.5-bad-migration", good)
    failed = bad.run("migrate", "up")
    assert failed.returncode == 1
    assert "migration 5 (invoice_due_date) failed and was rolled back" in failed.stderr
    assert status(bad) == {1: "applied", 2: "applied", 5: "pending"}
    with app_estate.database.connect(good.database) as connection:
        query = "SELECT 1 FROM information_schema.columns WHERE table_name = 'invoices' AND column_name = 'due_on'"
        assert connection.execute(query).fetchone() is None


EXIT_LOCK_CONFLICT, EXIT_HALF_APPLIED = 4, 5
INDEX_RELEASE = "v1.4.1"


def index_state(estate: Estate, color: Color, name: str = "projects_status") -> str:
    with estate.database.connect(color.database) as connection:
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", [name]
        ).fetchone()
    return "absent" if row is None else "valid" if row[0] else "invalid"


def interrupted_index(estate: Estate) -> Color:
    """A release whose CREATE INDEX CONCURRENTLY was killed in the middle, by SIGKILL to the runner."""
    old = estate.migrated("v1.2.0")
    color = sibling(estate, INDEX_RELEASE, old)
    with estate.database.connect(color.database) as connection, connection.transaction():
        connection.execute("UPDATE projects SET status = status")
        command = [NODE, "bin/migrate.js", "--settings", str(color.env_file), "--lock-timeout-ms", "30000", "up"]
        runner = subprocess.Popen(command, cwd=color.release, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        waiting.until(lambda: index_state(estate, color) == "invalid", "the index is being built")
        runner.kill()
        runner.wait()
        with estate.database.connect(color.database) as other:
            query = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND query LIKE 'CREATE INDEX%%'"
            gone = "the killed runner's statement has ended"
            waiting.until(lambda: other.execute(query, [color.database]).fetchone() is None, gone)
    assert (status(color)[6], index_state(estate, color)) == ("half-applied", "invalid")
    return color


def test_an_index_whose_runner_was_killed_is_gone_on_with(app_estate: Estate) -> None:
    color = interrupted_index(app_estate)
    done = json.loads(color.run("migrate", "--json", "up").stdout)
    assert [(entry["number"], entry["state"]) for entry in done] == [(6, "resumed")]
    assert (status(color)[6], index_state(app_estate, color)) == ("applied", "valid")


def test_an_index_that_was_built_before_the_runner_was_killed_is_kept(app_estate: Estate) -> None:
    color = app_estate.migrated(INDEX_RELEASE)
    with app_estate.database.connect(color.database) as connection:
        connection.execute("UPDATE schema_migrations SET finished_at = NULL WHERE number = 6")
        query = "SELECT 'projects_status'::regclass::oid"
        before = connection.execute(query).fetchone()
        up(color)
        assert connection.execute(query).fetchone() == before
    assert status(color)[6] == "applied"


def test_an_index_that_waits_for_a_session_leaves_the_schema_as_before(app_estate: Estate) -> None:
    color = sibling(app_estate, INDEX_RELEASE, app_estate.migrated("v1.2.0"))
    with app_estate.database.connect(color.database) as connection, connection.transaction():
        connection.execute("UPDATE projects SET status = status")
        refused = color.run("migrate", "--lock-timeout-ms", "600", "up")
        pid = connection.info.backend_pid
    assert refused.returncode == EXIT_LOCK_CONFLICT, refused.stderr
    assert f"it waited for pid {pid} (postgres" in refused.stderr
    assert "idle in transaction" in refused.stderr
    # While the session is there, the invalid index can't be dropped either: then it is marked, and gone on with.
    assert (status(color)[6], index_state(app_estate, color)) in {("pending", "absent"), ("half-applied", "invalid")}
    up(color)
    assert (status(color)[6], index_state(app_estate, color)) == ("applied", "valid")


def test_a_half_applied_migration_that_nobody_can_judge_is_settled_by_hand(app_estate: Estate, tmp_path: Path) -> None:
    sql = """-- phase: expand
-- transaction: none
CREATE INDEX CONCURRENTLY projects_status ON projects (status);
UPDATE projects SET status = no_such_column;
"""
    color = with_own_migrations(app_estate.migrated("v1.0.0"), tmp_path / "release", {"0099_indexes.sql": sql})
    failed = color.run("migrate", "up")
    assert failed.returncode == 1
    assert "failed half way, it is marked as half-applied" in failed.stderr
    assert status(color)[99] == "half-applied"
    for command in ("up", "plan"):
        refused = color.run("migrate", command)
        assert refused.returncode == EXIT_HALF_APPLIED
        assert "index projects_status is valid" in refused.stderr
        assert "'UPDATE projects SET status = no_such_column': look whether it was done" in refused.stderr
        assert "migrate.js resolve 99 applied|pending" in refused.stderr
    assert color.run("migrate", "resolve", "99", "pending").returncode == 0
    assert status(color)[99] == "pending"
    assert color.run("migrate", "resolve", "99", "pending").returncode == 1


def test_another_release_does_not_go_on_with_what_it_does_not_know(app_estate: Estate) -> None:
    color = interrupted_index(app_estate)
    refused = sibling(app_estate, "v1.2.0", color).run("migrate", "up")
    assert refused.returncode == EXIT_HALF_APPLIED
    assert "look at it in the release that started it" in refused.stderr


def test_locks_and_times_are_told_when_asked_for(app_estate: Estate) -> None:
    color = sibling(app_estate, "v1.2.0", app_estate.migrated("v1.0.0"))
    done = {entry["number"]: entry for entry in json.loads(color.run("migrate", "--json", "--locks", "up").stdout)}
    assert "AccessExclusiveLock invoices" in done[2]["locks"]
    assert "ShareRowExclusiveLock invoices" in done[2]["locks"], "the trigger's"
    assert "AccessExclusiveLock projects" in done[3]["locks"]
    assert all(entry["seconds"] > 0 for entry in done.values())
    assert not [lock for entry in done.values() for lock in entry["locks"] if "schema_migrations" in lock]
    index = sibling(app_estate, INDEX_RELEASE, color)
    told = json.loads(index.run("migrate", "--json", "--locks", "up").stdout)
    assert [entry["number"] for entry in told] == [6]


def test_what_was_applied_before_a_failure_is_told(app_estate: Estate) -> None:
    color = app_estate.color("v1.3.5-bad-migration", app_estate.migrated("v1.0.0").database)
    failed = color.run("migrate", "--json", "up")
    assert (failed.returncode, [entry["number"] for entry in json.loads(failed.stdout)]) == (1, [2])


def test_a_statement_that_takes_too_long_is_ended(app_estate: Estate, tmp_path: Path) -> None:
    files = {"0099_slow.sql": "-- phase: expand\nCREATE TABLE slow (); SELECT pg_sleep(30);"}
    color = with_own_migrations(app_estate.migrated("v1.0.0"), tmp_path / "release", files)
    failed = color.run("migrate", "--statement-timeout-ms", "300", "up")
    assert failed.returncode == 1
    assert "statement timeout" in failed.stderr
    assert status(color)[99] == "pending"


def test_a_changed_migration_is_refused(app_estate: Estate, tmp_path: Path) -> None:
    color = app_estate.migrated("v1.0.0")
    name = "0001_first_tables.sql"
    changed = (color.release / "migrations" / name).read_text() + "-- a change\n"
    with_own_migrations(color, tmp_path / "release", {name: changed})
    refused = color.run("migrate", "up")
    assert refused.returncode == 1
    assert "differs from the one that was applied" in refused.stderr


@pytest.mark.parametrize(
    ("name", "sql", "said"),
    [
        ("0098_rename.sql", "-- phase: expand\nALTER TABLE users RENAME COLUMN name TO label;", "contract migration"),
        ("0098_drop.sql", "-- phase: expand\nDROP TABLE activity;", "contract migration"),
        ("0098_phase.sql", "SELECT 1;", "'-- phase: expand' or '-- phase: contract'"),
        ("98_name.sql", "-- phase: expand\nSELECT 1;", "expected a name such as"),
        ("0001_twice.sql", "-- phase: expand\nSELECT 1;", "number 1 is used twice"),
    ],
)
def test_an_unsound_migration_is_refused(app_estate: Estate, tmp_path: Path, name: str, sql: str, said: str) -> None:
    color = app_estate.color("v1.0.0", "unused_1")
    with_own_migrations(color, tmp_path / "release", {name: sql})
    refused = color.run("migrate", "list")
    assert refused.returncode == 1
    assert said in refused.stderr


def test_two_migrations_at_once_are_refused(app_estate: Estate) -> None:
    color = app_estate.color("v1.0.0", app_estate.database.create_numbered_database())
    with app_estate.database.connect(color.database) as connection:
        connection.execute("SELECT pg_advisory_lock(7361000001)")
        refused = color.run("migrate", "--lock-timeout-ms", "200", "up")
        pid = connection.info.backend_pid
    assert refused.returncode == EXIT_LOCK_CONFLICT
    assert f"another migration is running (advisory lock held by pid {pid})" in refused.stderr


def test_a_migration_that_must_wait_for_a_lock_gives_up(app_estate: Estate) -> None:
    old = app_estate.migrated("v1.0.0")
    new = sibling(app_estate, "v1.1.0", old)
    with app_estate.database.connect(old.database) as connection, connection.transaction():
        connection.execute("LOCK TABLE invoices IN ACCESS SHARE MODE")
        refused = new.run("migrate", "--lock-timeout-ms", "800", "up")
        pid = connection.info.backend_pid
    assert refused.returncode == EXIT_LOCK_CONFLICT
    assert "lock timeout" in refused.stderr
    assert f"it waited for pid {pid} (postgres" in refused.stderr
    assert "nothing of it remains" in refused.stderr
    assert status(new) == {1: "applied", 2: "pending"}


def test_seeding_is_deterministic_and_adds_only_what_is_missing(app_estate: Estate) -> None:
    first, second = app_estate.migrated("v1.0.0"), app_estate.migrated("v1.1.0")
    again = first.run("seed")
    assert again.stdout == "production: 0 rows added\n"

    def ids(color: Color) -> object:
        with app_estate.database.connect(color.database) as connection:
            return connection.execute("SELECT id, amount, created_at FROM invoices ORDER BY id").fetchall()

    assert ids(first) == ids(second)


def test_development_gets_mock_data(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0", NODE_ENV="development")
    with app_estate.database.connect(color.database) as connection:
        assert connection.execute("SELECT count(*) FROM invoices").fetchone() == (5000,)


def test_wrong_use_is_explained(app_estate: Estate) -> None:
    color = app_estate.color("v1.0.0", "unused_1")
    for arguments in (["sideways"], ["up", "--phase", "both"], ["up", "--force"]):
        finished = color.run("migrate", *arguments)
        assert finished.returncode == 2
        assert finished.stderr
