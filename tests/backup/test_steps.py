"""The steps of a backup one after the other, on a real cluster, repository and ledger: what each leaves and refuses."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sebenza_ops.backup import restore_steps, steps
from sebenza_ops.backup.dump_steps import dump_database
from sebenza_ops.backup.errors import BackupDamagedError, BackupRefusedError
from sebenza_ops.backup.finish import finish_backup
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.backup.repository_steps import verify_backup
from sebenza_ops.backup.restore_steps import plan_restore_test, restore_set
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.ledger import BackupKind, Holder, Ledger
from sebenza_ops.systems.database_restore import dump_prefix
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import PgBackRest
from tests.backup.local_hosts import reach
from tests.backup.repository_server import RepositoryServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

NAME = "production"


@pytest.fixture(autouse=True)
def hosts(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """db1 is the server of the tests, reached without SSH; db2 does not answer."""
    reach(server, monkeypatch, steps, restore_steps)


def a_run(server: RepositoryServer, ledger: Ledger, number: int = 1) -> ChangeRun:
    holder = Holder("backup_database.production", f"manual__{number}", "thandi")
    return ChangeRun(ledger, server.environment, holder, lease_name=f"{NAME}.backup")


def planned(run: ChangeRun, requested: str = "auto") -> BackupPlan:
    steps.take_lease(run)
    return steps.plan_backup(run, requested)


def released(run: ChangeRun) -> None:
    run.release("the run has ended")


def good(ledger: Ledger, label: str, kind: BackupKind = BackupKind.PHYSICAL) -> bool:
    found = ledger.backup_sets.find(NAME, kind, label)
    assert found is not None
    return found.is_good


def test_a_whole_backup_is_catalogued_verified_and_measured(server: RepositoryServer, ledger: Ledger) -> None:
    run = a_run(server, ledger)
    plan = planned(run)
    assert (plan.backup_type, plan.host, plan.primary, plan.from_replica) == ("full", "db1", "db1", False)
    assert "no replica can be read" in plan.warnings[0]
    assert "db2: no SSH connection" in plan.warnings[0]

    began_at = time.time()
    label = steps.back_up(run, plan)
    assert steps.back_up(run, plan) == label, "a retry makes a second backup"
    counted = dump_database(run, plan, label)
    assert dump_database(run, plan, label) == counted
    assert counted["tables"] == 1
    assert counted["rows"] >= 5000
    assert verify_backup(run, plan, label) == []
    outcome = finish_backup(run, plan, label, [])
    released(run)

    assert 0 <= outcome["rpo_seconds"] <= time.time() - began_at, "what the backup has archived itself does not count"
    assert outcome["warnings"] == list(plan.warnings)
    assert good(ledger, label)
    assert good(ledger, label, BackupKind.LOGICAL)
    physical = ledger.backup_sets.find(NAME, BackupKind.PHYSICAL, label)
    assert physical is not None
    assert physical.made_by == run.holder
    assert {"lsn_stop", "manifest", "rpo_seconds", "schema_revision"} <= physical.detail.keys()
    storage = ObjectStorage(server.environment.object_store)
    manifest = storage.get_json(f"{dump_prefix(NAME, label)}manifest.json")
    assert manifest["rows"] == {"public.orders": counted["rows"]}
    for key, piece in manifest["objects"].items():
        assert storage.size_bytes(key) == piece["size_bytes"]
    prove_by_restoring(server, ledger, label, counted["rows"])
    told = [item.message for item in ledger.outbox.of_run(run.holder.dag_id, run.holder.run_id)]
    assert {message.kind for message in told} == {"warning"}
    assert "no replica can be read" in told[0].body


def prove_by_restoring(server: RepositoryServer, ledger: Ledger, label: str, rows: int) -> None:
    run = a_run(server, ledger, 2)
    steps.take_lease(run)
    with server.connect() as connection:
        connection.execute("INSERT INTO orders VALUES (0, 'after the backup')")
    plan = plan_restore_test(run, "")
    assert plan.label == label
    measured = restore_set(run, plan)
    released(run)
    assert measured["restored_bytes"] > 10**6
    assert measured["projected_restore_seconds"] is None, "nothing can be projected from so little"
    proven = ledger.backup_sets.find(NAME, BackupKind.PHYSICAL, label)
    assert proven is not None
    assert proven.restore_tested_at is not None
    with server.connect() as connection:
        connection.execute("DELETE FROM orders WHERE id = 0")
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (rows,)


def test_a_second_run_is_refused_and_told_who_works(server: RepositoryServer, ledger: Ledger) -> None:
    first, second = a_run(server, ledger), a_run(server, ledger, 2)
    steps.take_lease(first)
    with pytest.raises(ChangeRefusedError, match=r"another backup of production works: .*manual__1.*Nothing was begun"):
        steps.take_lease(second)
    released(first)
    # Its ledger knows of no token; the hosts do.
    assert steps.take_lease(second) > first.fence.token
    released(second)


def test_a_backup_of_a_person_is_not_joined(
    server: RepositoryServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(server, ledger)
    steps.take_lease(run)
    info = PgBackRest.info

    def busy(self: PgBackRest) -> Any:
        from dataclasses import replace

        return replace(info(self), is_busy=True)

    monkeypatch.setattr(PgBackRest, "info", busy)
    with pytest.raises(BackupRefusedError, match="db1: a backup or an expiration works there already"):
        steps.plan_backup(run, "auto")
    released(run)


@pytest.mark.long
def test_damage_to_an_older_set_is_told_and_nothing_is_based_on_it(server: RepositoryServer, ledger: Ledger) -> None:
    first = a_run(server, ledger, 1)
    old_plan = planned(first, "full")
    old = steps.back_up(first, old_plan)
    verify_backup(first, old_plan, old)
    released(first)
    bundle = next((server.repository / "backup/main" / old / "bundle").iterdir())
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with server.changed(bundle, bytes(content)):
        second = a_run(server, ledger, 2)
        plan = planned(second, "incr")
        assert plan.backup_type == "incr"
        label = steps.back_up(second, plan)
        with pytest.raises(BackupDamagedError, match=f"{label} can't be restored from: {old}"):
            verify_backup(second, plan, label)
        released(second)
        assert not good(ledger, old)
        assert not good(ledger, label)

        third = a_run(server, ledger, 3)
        plan = planned(third, "incr")
        assert plan.backup_type == "full", "an increment of a damaged set"
        label = steps.back_up(third, plan)
        older = verify_backup(third, plan, label)
        assert any(text.startswith(old) for text in older)
        assert good(ledger, label)
        outcome = finish_backup(third, plan, label, older)
        released(third)
        assert any(old in text for text in outcome["warnings"])
    assert old in {each.label for each in PgBackRest(server.environment, server.session).info().sets}
