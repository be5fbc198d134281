"""Expand migrations of a run, over SSH, on a real PostgreSQL: locks that are not to be had, half-applied ones."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.waiting import scaled
from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.migrations import SchemaChangeError, apply_migrations, read_schema
from sebenza_ops.environments.models import Color as ColorName
from sebenza_ops.environments.models import Environment, MigrationPolicy
from sebenza_ops.evidence.facts import load
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.application_migrations import parse_applied, parse_known
from sebenza_ops.systems.errors import FencedOffError, NoDataError, RemoteCommandError
from tests.lab.application_fixtures import NODE, Color, Estate, app_estate, app_releases, app_servers
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import changed
from tests.systems.sshd import SshServer

__all__ = ["app_estate", "app_releases", "app_servers"]

pytestmark = pytest.mark.integration

HOLDER = Holder("deploy_blue_green.staging", "manual__1", "thandi")


class Host:
    """An application host with one release, configured for green, and a run that holds its environment."""

    def __init__(self, sshd: SshServer, color: Color, directory: Path) -> None:
        self.color, self.release_id = color, f"{color.release.name}-aaaaaaaaaaaa"
        releases, colors = directory / "releases", directory / "colors"
        releases.mkdir()
        shutil.copytree(color.release, releases / self.release_id, symlinks=True)
        (colors / "green").mkdir(parents=True)
        (colors / "green" / "app.env").write_text(color.env_file.read_text())
        staging = changed("staging")
        policy = MigrationPolicy(lock_timeout_milliseconds=600, lock_attempts=3, attempt_pause_seconds=0.5)
        self.environment: Environment = changed(
            "staging",
            hosts=(sshd.host("staging"),),
            application={
                "releases_dir": str(releases),
                "colors_dir": str(colors),
                "state_dir": str(directory / "state"),
                "marker_dir": str(directory / "markers"),
                "pm2_home": str(directory / "pm2"),
                "node_bin_dir": str(Path(NODE).parent),
            },
            policies=staging.policies.model_copy(update={"migrations": policy}),
        ).model_copy(update={"ssh_conn_id": SSH_CONNECTION})
        url = f"sqlite:///{directory}/ledger.db"
        self.ledger = Ledger.open(url)
        self.ledger.migrate()
        self.run = ChangeRun(self.ledger, self.environment, HOLDER)
        self.run.acquire("deploy", 600, 0)

    def expand(self, sleep: Callable[[float], None] = lambda _: None) -> list[int]:
        done = apply_migrations(self.run, "staging", ColorName.GREEN, self.release_id, "expand", sleep=sleep)
        return [one.number for one in done]

    def notes(self) -> str:
        return "\n".join(entry.text for entry in load(self.ledger, HOLDER.dag_id, HOLDER.run_id).timeline)


MakeHost = Callable[[Color], Host]


@pytest.fixture
def make_host(sshd: SshServer, tmp_path: Path) -> MakeHost:
    return lambda color: Host(sshd, color, tmp_path)


def test_pending_ones_are_applied_and_the_schema_is_known_by_the_database(
    app_estate: Estate, make_host: MakeHost
) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.4.1", old.database))
    before = read_schema(host.environment)
    assert (before.revision, before.half_applied) == (1, ())
    assert host.expand() == [2, 3, 6]
    assert "expand migration 2 (invoice_amount_cents) applied in" in host.notes()
    after = read_schema(host.environment)
    assert (after.revision, after.contract_revisions) == (6, frozenset())
    assert host.expand() == []
    assert "no expand migration was pending" in host.notes()


def test_a_session_that_goes_away_lets_a_later_attempt_through(app_estate: Estate, make_host: MakeHost) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.1.0", old.database))
    with app_estate.database.connect(old.database) as connection:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE invoices IN ACCESS SHARE MODE")
        pid = connection.info.backend_pid

        def leave(_: float) -> None:
            connection.execute("ROLLBACK")

        assert host.expand(leave) == [2]
    assert "attempt 1 of 3: staging: migrate up: migration 2 (invoice_amount_cents) could not get" in host.notes()
    assert f"it waited for pid {pid}" in host.notes()


def test_a_session_that_stays_is_named_and_the_schema_is_as_before(app_estate: Estate, make_host: MakeHost) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.1.0", old.database))
    pauses: list[float] = []
    with app_estate.database.connect(old.database) as connection, connection.transaction():
        connection.execute("LOCK TABLE invoices IN ACCESS SHARE MODE")
        with pytest.raises(SchemaChangeError, match="no lock in 3 attempts") as raised:
            host.expand(pauses.append)
        pid = connection.info.backend_pid
    assert f"it waited for pid {pid} (postgres" in str(raised.value)
    assert "pg_terminate_backend" in str(raised.value)
    assert pauses == [0.5, 0.5], "attempts are bounded, with a pause between them"
    assert read_schema(host.environment).revision == 1


def test_a_half_applied_migration_is_reported_with_what_to_do(app_estate: Estate, make_host: MakeHost) -> None:
    color = app_estate.migrated("v1.0.0")
    host = make_host(color)
    with app_estate.database.connect(color.database) as connection:
        columns = "(number, name, phase, checksum, started_at)"
        connection.execute(f"INSERT INTO schema_migrations {columns} VALUES (9, 'x', 'expand', 'c', now())")
    with pytest.raises(SchemaChangeError, match=r"migrate\.js resolve 9 applied\|pending"):
        host.expand()
    assert [one.number for one in read_schema(host.environment).half_applied] == [9]


def test_a_failing_migration_is_no_matter_of_locks(app_estate: Estate, make_host: MakeHost) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.3.5-bad-migration", old.database))
    with pytest.raises(RemoteCommandError, match="invoices_minimum") as raised:
        host.expand(lambda _: pytest.fail("it was tried again"))
    assert raised.value.__cause__ is not raised.value, "the error is its own cause: who follows the causes never ends"
    assert read_schema(host.environment).revision == 2


def test_a_run_that_was_fenced_off_migrates_nothing(app_estate: Estate, make_host: MakeHost) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.1.0", old.database))
    state = Path(host.environment.application.state_dir)
    state.mkdir()
    (state / "fence-staging").write_text("99 rollback.staging/manual__2 2026-01-01T00:00:00Z\n")
    with pytest.raises(FencedOffError):
        host.expand()
    assert read_schema(host.environment).revision == 1


def test_two_runs_at_once_do_the_work_once(app_estate: Estate, make_host: MakeHost) -> None:
    old = app_estate.migrated("v1.0.0")
    host = make_host(app_estate.color("v1.2.0", old.database))
    results: list[list[int]] = []
    threads = [threading.Thread(target=lambda: results.append(host.expand())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(scaled(60))
    assert sorted(results) == [[], [2, 3]]


def test_a_database_that_can_not_be_asked_is_no_data(app_estate: Estate, make_host: MakeHost) -> None:
    host = make_host(app_estate.color("v1.0.0", "no_such_1"))
    with pytest.raises(NoDataError, match="no application host tells what schema the database has"):
        read_schema(host.environment)


@pytest.mark.parametrize(
    "text", ["", "7", "[{}]", '[{"number": 1, "name": "x", "phase": "sideways", "state": "pending"}]']
)
def test_what_can_not_be_read_is_no_data(text: str) -> None:
    for parse in (parse_known, parse_applied):
        with pytest.raises(NoDataError):
            parse("app1", text)


def test_the_application_s_answers_are_read() -> None:
    known = [{"number": 4, "name": "drop", "phase": "contract", "state": "foreign"}]
    assert parse_known("app1", json.dumps(known))[0].is_applied
    applied = [{"number": 6, "name": "index", "phase": "expand", "state": "resumed", "seconds": 1.5}]
    assert parse_applied("app1", json.dumps(applied))[0].resumed
