"""The backup before a change as a set of pgBackRest: what it is based on, what it refuses, what comes back from it."""

from __future__ import annotations

import subprocess
import tempfile

import pytest

from lab import paths
from sebenza_ops.backup import steps
from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.deployment import backup_before, set_before
from sebenza_ops.deployment.backup_before import LogicalDumpBackup, backup_before_change, is_whole, run_prefix
from sebenza_ops.deployment.migrations import DatabaseSchema
from sebenza_ops.deployment.set_before import PhysicalSet, dump_of_set, make_set
from sebenza_ops.ledger import BackupKind, Holder, Ledger
from sebenza_ops.systems.object_store import ObjectStorage
from tests.backup.conftest import server
from tests.backup.local_hosts import reach
from tests.backup.repository_server import RepositoryServer

__all__ = ["server"]

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

DEPLOY = "deploy_blue_green.production"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    found = Ledger.open(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")
    found.migrate()
    return found


@pytest.fixture(autouse=True)
def hosts(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(server, monkeypatch, steps, set_before)
    monkeypatch.setattr(backup_before, "read_schema", lambda environment: DatabaseSchema(()))


def a_run(server: RepositoryServer, ledger: Ledger, run_id: str) -> ChangeRun:
    return ChangeRun(ledger, server.environment, Holder(DEPLOY, run_id, "thandi"))


def a_full_set(server: RepositoryServer, ledger: Ledger) -> str:
    holder = Holder("backup_database.production", "manual__full", "thandi")
    run = ChangeRun(ledger, server.environment, holder, lease_name="production.backup")
    steps.take_lease(run)
    label = steps.back_up(run, steps.plan_backup(run, "full"))
    run.release("the run has ended")
    return label


def orders(server: RepositoryServer, dump: bytes) -> int:
    """The rows of `orders` in a dump."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(dump)
        file.flush()
        command = [str(paths.POSTGRES_BIN / "pg_restore"), "--data-only", "--table=orders", "--file=-", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    body = text.partition("FROM stdin;\n")[2].partition("\\.\n")[0]
    return len(body.splitlines())


def test_a_change_is_backed_up_by_an_increment_and_comes_back_from_it(
    server: RepositoryServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackupRefusedError, match=r"no full backup that another one could be based on: run backup"):
        make_set(a_run(server, ledger, "without"), "key", 0)
    full = a_full_set(server, ledger)
    run = a_run(server, ledger, "r1")
    with pytest.raises(BackupRefusedError, match="was not read back yet"):
        make_set(run, "key", 0)
    ledger.backup_sets.mark_verified("production", BackupKind.PHYSICAL, [full])

    with server.connect() as connection:
        connection.execute("INSERT INTO orders VALUES (0, 'before the change')")
    backup = backup_before_change(run)
    with server.connect() as connection:
        connection.execute("INSERT INTO orders VALUES (-1, 'after the change')")

    assert isinstance(backup, PhysicalSet)
    assert (backup.backup_type, backup.based_on, backup.made_on) == ("incr", full, "db1")
    assert backup_before_change(run) == backup, "a retry makes another one"
    kept = ledger.backup_sets.find("production", BackupKind.PHYSICAL, backup.label)
    assert kept is not None
    assert kept.made_by == run.holder
    assert kept.verified_at is None, "nobody has read all of it back"
    assert ledger.leases.current("production.backup") is None

    # What it would be based on was not read back: the next one is based on the full set.
    another = backup_before_change(a_run(server, ledger, "r2"))
    assert isinstance(another, PhysicalSet)
    assert (another.backup_type, another.based_on) == ("diff", full)

    key, dump = dump_of_set(a_run(server, ledger, "rollback"), backup)
    content = ObjectStorage(server.environment.object_store).get_bytes(key)
    assert content is not None
    assert len(content) == dump.size_bytes
    assert key.startswith(run_prefix(run.holder))
    assert orders(server, content) == 5001
    assert not list((server.root / "var/lib/sebenza-backup").glob("*-set"))

    ledger.backup_sets.mark_bad("production", BackupKind.PHYSICAL, backup.label, "a test", run.holder)
    assert not is_whole(run, ObjectStorage(server.environment.object_store), backup)


def test_beside_another_backup_a_dump_is_made(
    server: RepositoryServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.leases.acquire("production.backup", Holder("backup_database.production", "night", "x"), "backup", 60)
    asked: list[ChangeRun] = []
    monkeypatch.setattr(LogicalDumpBackup, "ensure", lambda self, run: asked.append(run))
    run = a_run(server, ledger, "r3")
    with pytest.raises(ChangeRefusedError, match="another backup of production works"):
        make_set(run, "key", 0)
    backup_before_change(run)
    assert asked == [run]
