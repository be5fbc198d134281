"""A backup set restored into a new database: from its dump and from its files, as in its manifest, or not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from sebenza_ops.backup import steps
from sebenza_ops.backup.dump_steps import dump_database
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.changes import run_key
from sebenza_ops.environments.models import Host
from sebenza_ops.ledger import BackupKind, Outcome
from sebenza_ops.recovery import database_restore_steps as restoring
from sebenza_ops.recovery import point_plan, run_record
from sebenza_ops.recovery.database_restore import DatabaseRestoreRefusedError
from sebenza_ops.recovery.database_restore_operators import (
    ChooseSetOperator,
    FinishDatabaseRestoreOperator,
    PlanDatabaseRestoreOperator,
    RestoreIntoOperator,
)
from sebenza_ops.systems import fencing
from sebenza_ops.systems.database_restore import DatabaseRestore
from sebenza_ops.systems.errors import HostUnreachableError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.ssh import HostSession
from tests.backup.repository_server import KEY, SECRET
from tests.recovery.repository import RestorableServer
from tests.recovery.tasks import Tasks

QUESTION: dict[str, Any] = {"subject": "Which one?", "body": "", "response_timeout": timedelta(hours=1)}
pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestorableServer]:
    """A set of 5,000 orders with its dump; two more came afterwards."""
    server = RestorableServer(tmp_path_factory.mktemp("ledger"))
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            reach_by_itself(server, patch)
            with server.connect() as connection:
                connection.execute(
                    "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS name FROM generate_series(1, 5000) n"
                )
                connection.execute("CREATE INDEX ON orders (id)")
            made = server.back_up()
            run = server.run("backup_database")
            server.ledger.backup_sets.record(steps.catalogued("production", made))
            server.ledger.backup_sets.mark_verified("production", BackupKind.PHYSICAL, [made.label])
            plan = BackupPlan(
                environment="production", job=run_key(run.holder), backup_type="full", reason="a test", host="db1",
                primary="db1", from_replica=False,
            )  # fmt: skip
            dump_database(run, plan, made.label)
            with server.connect() as connection:
                connection.execute("INSERT INTO orders VALUES (-1, 'later'), (-2, 'later')")
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def hosts(server: RestorableServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach_by_itself(server, monkeypatch)


def reach_by_itself(server: RestorableServer, patch: pytest.MonkeyPatch) -> None:
    """db1 is the server of the tests, reached without SSH; db2 does not answer."""

    @contextmanager
    def open_session(host: Host, _: str) -> Iterator[HostSession]:
        assert host.name == "db1"
        yield server.session

    def on_hosts(chosen: Any, _: str, action: Callable[[HostSession], Any]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for host in chosen:
            try:
                if host.name != "db1":
                    raise HostUnreachableError("no SSH connection", host=host.name)
                answers[host.name] = action(server.session)
            except OutsideSystemError as error:
                answers[host.name] = error
        return answers

    patch.setattr(steps, "open_session", open_session)
    patch.setattr(restoring, "open_session", open_session)
    for module in (point_plan, run_record, fencing, steps):
        patch.setattr(module, "on_hosts", on_hosts)
    extra = {
        "endpoint_url": f"https://127.0.0.1:{server.port}",
        "region_name": "us-east-1",
        "verify": str(server.root / "ca.pem"),
        "config_kwargs": {
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "s3": {"addressing_style": "path"},
            "signature_version": "s3v4",
        },
    }
    connection = {"conn_type": "aws", "login": KEY, "password": SECRET, "extra": extra}
    patch.setenv("AIRFLOW_CONN_SEBENZA_OBJECT_STORE", json.dumps(connection))


def databases(server: RestorableServer) -> set[str]:
    with server.connect() as connection:
        return {str(name) for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}


def params(**given: str) -> dict[str, str]:
    return {"target_database": "orders_of_then", "set": "", "source": "auto", **given}


@pytest.mark.parametrize("source", ["dump", "files"])
def test_a_set_becomes_a_new_database_as_in_its_manifest(
    server: RestorableServer, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, target = databases(server), f"orders_by_{source}"
    run = server.run("restore_database")
    chosen = {**params(source=source, target_database=target), "plan_only": False}
    with monkeypatch.context() as patch:
        tasks = Tasks(server.environment, server.ledger, run.holder, chosen, patch)
        label = tasks.do(ChooseSetOperator, "choose_set", **QUESTION)
        plan = tasks.do(PlanDatabaseRestoreOperator, "plan_restore", chosen=label)
        assert plan["source"] == source
        found = tasks.do(RestoreIntoOperator, "restore_into", plan=plan)
        assert (found["rows"], found["database"]) == (5000, target)
        assert databases(server) == {*before, target}
        assert server.query("SELECT count(*) FROM orders WHERE name = md5(id::text)", target) == 5000
        assert server.query("SELECT count(*) FROM pg_indexes WHERE tablename = 'orders'", target) == 1
        assert server.query("SELECT count(*) FROM orders") == 5002, "the database that is used was touched"
        assert target in tasks.do(FinishDatabaseRestoreOperator, "finish")
    assert databases(server) == {*before, target}
    assert server.ledger.deployments.get(run.holder.dag_id, run.holder.run_id).outcome is Outcome.SUCCEEDED
    assert server.ledger.leases.current("production") is None
    left = [path.name for path in server.root.glob("data.*")]
    assert left == [], "the files beside were not removed"
    for another in (run, server.run("restore_database")):
        with pytest.raises(DatabaseRestoreRefusedError, match=f"there is a database {target} already"):
            restoring.begin(another, params(source=source, target_database=target))


def test_a_restore_that_differs_from_its_manifest_is_not_there(
    server: RestorableServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = server.run("restore_database"), databases(server)
    plan = restoring.begin(run, params(target_database="differs"))
    right = restoring.read_manifest

    def more(*arguments: Any) -> Any:
        from dataclasses import replace

        return replace(right(*arguments), rows={"public.orders": 5001, "public.gone": 1})

    monkeypatch.setattr(restoring, "read_manifest", more)
    with pytest.raises(
        restoring.RestoredDiffersError, match=r"public.gone: is missing; public.orders: 5000 rows, expected 5001"
    ):
        restoring.restore_into(run, plan)
    summary = restoring.finish(run, ["restore_into"], plan_only=False, may_settle=True)
    assert "there is no new database" in summary
    assert databases(server) == before
    bad = server.ledger.backup_sets.find("production", BackupKind.LOGICAL, plan.label)
    assert bad is not None
    assert not bad.is_good
    with pytest.raises(DatabaseRestoreRefusedError, match=f"{plan.label} is not to be trusted"):
        restoring.begin(server.run("restore_database"), params(set=plan.label, source="dump"))
    # It was only said so.
    server.ledger.backup_sets.mark_verified("production", BackupKind.LOGICAL, [plan.label])


def test_a_dump_that_was_changed_in_storage_is_refused(server: RestorableServer) -> None:
    run, before = server.run("restore_database"), databases(server)
    plan = restoring.begin(run, params(target_database="changed"))
    (file, *_) = sorted((server.storage_dir / "sebenza").rglob("dump/database/*.dat.gz"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    with server.changed(file, bytes(content)), pytest.raises(RemoteCommandError, match="it was changed, or cut"):
        restoring.restore_into(run, plan)
    # The same run, tried again once it is mended, goes on with what it has.
    assert restoring.restore_into(run, plan)["database"] == "changed"
    assert databases(server) == {*before, "changed"}


def test_a_killed_restore_is_removed_by_its_own_name(server: RestorableServer) -> None:
    run, before = server.run("restore_database"), databases(server)
    plan = restoring.begin(run, params(target_database="killed"))
    restore = DatabaseRestore(server.environment, server.session, plan.key)
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {restore.restored}")
    summary = restoring.finish(run, ["restore_into"], plan_only=False, may_settle=True)
    assert "failed; there is no new database" in summary
    assert databases(server) == before


def test_too_little_disk_and_an_unknown_set_are_refused_before_anything(server: RestorableServer) -> None:
    whole = server.environment
    policy = whole.policies.backup
    assert policy is not None
    greedy = policy.model_copy(update={"minimum_free_bytes": 10**15})
    run = server.run("restore_database")
    run.environment = whole.model_copy(update={"policies": whole.policies.model_copy(update={"backup": greedy})})
    with pytest.raises(DatabaseRestoreRefusedError, match=r"MiB are needed: make room. Nothing was started"):
        restoring.begin(run, params(target_database="large"))
    with pytest.raises(DatabaseRestoreRefusedError, match=r"there is no set .*verified ones: \d{8}-\d{6}F"):
        restoring.begin(server.run("restore_database"), params(set="20200101-000000F"))
