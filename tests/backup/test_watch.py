"""Watching the recovery point on a real cluster and repository: what is asked, kept and told."""

from __future__ import annotations

import time

import pytest

from sebenza_ops.backup import steps, watch
from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.backup_host import BackupHost
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import PgBackRest
from tests.backup.local_hosts import reach
from tests.backup.repository_server import RepositoryServer
from tests.postgres_pair import until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

WATCH = "watch_recovery_point.production"


@pytest.fixture(autouse=True)
def hosts(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """db1 is the server of the tests, reached without SSH; db2 does not answer."""
    reach(server, monkeypatch, steps)
    monkeypatch.setattr("sebenza_ops.notify.outbox.deliver_pending", lambda ledger: None)


def a_run(server: RepositoryServer, ledger: Ledger, number: int = 1) -> ChangeRun:
    return ChangeRun(ledger, server.environment, Holder(WATCH, f"scheduled__{number}", "scheduler"))


def told(ledger: Ledger, number: int) -> set[str]:
    return {item.message.body for item in ledger.outbox.of_run(WATCH, f"scheduled__{number}")}


def archived(server: RepositoryServer) -> None:
    PgBackRest(server.environment, server.session).check()
    host = BackupHost(server.environment, server.session)
    until(lambda: host.state().archive.archived_wal, "PostgreSQL's own account says so, too")


def test_what_would_be_lost_is_asked_of_the_primary_and_the_repository(
    server: RepositoryServer, ledger: Ledger
) -> None:
    began_at = time.time()
    archived(server)
    point = watch.look(a_run(server, ledger))
    seconds = point.seconds(point.checked_at)
    assert seconds is not None, point.reason
    assert 0 <= seconds <= time.time() - began_at
    assert "nothing waits" in point.reason
    assert watch.tell(a_run(server, ledger), point) == ""
    assert told(ledger, 1) == set()
    assert ledger.recovery_points.latest("production") == point


def test_a_repository_that_is_silent_leaves_the_primarys_own_account(
    server: RepositoryServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(server)

    def silent(self: PgBackRest) -> None:
        raise NoDataError("the repository does not answer", host="db1")

    monkeypatch.setattr(PgBackRest, "info", silent)
    point = watch.look(a_run(server, ledger))
    assert point.missed_since is None
    assert "by db1 alone, the repository can't be read: db1: the repository does not answer" in point.reason


def test_a_miss_is_told_once_and_that_it_is_over(
    server: RepositoryServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(environment: object) -> tuple[dict[str, object], dict[str, str]]:
        return {}, {"db1": "db1: no SSH connection"}

    with monkeypatch.context() as patch:
        patch.setattr(watch, "host_states", nobody)
        for number in (1, 2):
            run = a_run(server, ledger, number)
            assert "can't be told" in watch.tell(run, watch.look(run))
    assert any("primaries that answer: none" in body for body in told(ledger, 1))
    assert told(ledger, 2) == set(), "told again before the objective has passed again"
    archived(server)
    run = a_run(server, ledger, 3)
    assert watch.tell(run, watch.look(run)) == ""
    assert any("over: the recovery point is" in body for body in told(ledger, 3))
