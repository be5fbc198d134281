"""Contract migrations in Airflow, on the lab's staging: refused, planned, applied, and known to rollbacks."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import checker, paths, postgres, releases
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.chaos.inventory_file import changed_policies
from lab.hosts import ENVIRONMENTS
from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.backup_before import LogicalDump, LogicalDumpBackup, backup_before_change
from sebenza_ops.deployment.migration_test import test_migrations as run_migration_test
from sebenza_ops.deployment.migrations import read_schema
from sebenza_ops.deployment.release import Release
from sebenza_ops.deployment.schema_gate import rollback_is_possible
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.systems.object_store import ObjectStorage
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(900)]

DEPLOY, CONTRACT = "deploy_blue_green.staging", "migrate_contract.staging"
REASON = "nobody goes back behind v1.4.0"
OLD, CONTRACTING, NEXT = "v1.2.0", "v1.4.0-contract", "v1.4.1"


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow, ledger: Ledger) -> Iterator[AirflowClient]:
    estate.reset("staging")
    for version in (OLD, CONTRACTING, NEXT):
        release = ledger.releases.by_version(version)
        if release is not None:
            ledger.releases.forgive("staging", release.release_id, "a test", Holder("tests", "1", "tests"))
    with airflow.client("operator") as client, changed_policies("staging", backup_before_change={"method": "dump"}):
        yield client
    estate.reset("staging")
    # The database has what v1.0.0 needs again, and v1.0.0 runs: that is what a rollback of other tests goes back to.
    ledger.releases.set_last_known_good(
        "staging", releases.first_artifact().release_id, Holder("tests", "migrate_contract", "tests")
    )


@pytest.fixture
def staging(estate: Any, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """The lab's staging, for the package's own functions."""
    for conn_id, connection in estate.connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))
    monkeypatch.setenv("SEBENZA_ENVIRONMENTS", str(paths.ENVIRONMENTS_DIR))
    return dumping(load_inventory().environment("staging"))


def dumping(environment: Environment) -> Environment:
    """Its backup before a change is a dump, whatever sets other tests have made."""
    before = environment.policies.backup_before_change.model_copy(update={"method": "dump"})
    policies = environment.policies.model_copy(update={"backup_before_change": before})
    return environment.model_copy(update={"policies": policies})


def deploy(client: AirflowClient, version: str) -> None:
    state, tasks, _ = ended(client, DEPLOY, {"version": version, "bake_seconds": 5, "keep_warm_seconds": 3600})
    assert state == "success", tasks


def columns() -> set[str]:
    with postgres.connect("staging", ENVIRONMENTS["staging"].database_name) as cursor:
        cursor.execute("SELECT column_name FROM information_schema.columns WHERE table_name = 'invoices'")
        return {name for (name,) in cursor.fetchall()}


def databases() -> list[str]:
    with postgres.connect("staging") as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE '%mtest%'")
        return [name for (name,) in cursor.fetchall()]


def manifest(ledger: Ledger, version: str) -> Release:
    record = ledger.releases.by_version(version)
    assert record is not None
    return Release.model_validate(record.manifest)


@pytest.mark.long
def test_it_is_refused_while_the_warm_release_and_the_rollback_need_the_old_schema(
    operator: AirflowClient, ledger: Ledger
) -> None:
    deploy(operator, OLD)
    deploy(operator, CONTRACTING)
    state, tasks, run_id = ended(operator, CONTRACT, {"reason": REASON})
    assert (state, tasks["plan_contract"], tasks["apply_contract"]) == ("failed", "failed", "upstream_failed")
    log = str(operator.logs(CONTRACT, run_id, "plan_contract"))
    old = manifest(ledger, OLD).release_id
    assert f"{old} runs on staging in" in log
    assert "needs what contract migration 4 (drop_invoice_amount) takes away" in log
    assert {"amount", "amount_cents"} <= columns()
    assert ledger.leases.current("staging") is None
    assert ledger.deployments.get(CONTRACT, run_id).outcome == "refused"


@pytest.mark.long
def test_migrations_are_tested_on_a_copy(operator: AirflowClient, ledger: Ledger, staging: Environment) -> None:
    assert operator.trigger("build_release", {"version": NEXT})
    deploy(operator, NEXT)  # builds it at the latest, and expands the schema
    result = run_migration_test(staging, manifest(ledger, NEXT))
    assert (result.verdict, [(one.number, one.phase) for one in result.migrations]) == ("pass", [(4, "contract")])
    assert "AccessExclusiveLock invoices" in result.migrations[0].locks
    assert {"amount", "amount_cents"} <= columns(), "the real database was changed"
    bad = manifest(ledger, NEXT).model_copy(update={"sha256": "0" * 64})
    assert run_migration_test(staging, bad).verdict == "no_data"
    assert databases() == []


@pytest.mark.long
def test_it_shows_then_does_it_once(operator: AirflowClient, ledger: Ledger, staging: Environment) -> None:
    state, tasks, run_id = ended(operator, CONTRACT, {"reason": REASON, "plan_only": True})
    assert (state, tasks["backup_before_change"], tasks["apply_contract"]) == ("success", "skipped", "skipped")
    assert "4 drop_invoice_amount" in operator.xcom(CONTRACT, run_id, "plan_contract")["text"]
    assert "amount" in columns()

    before = read_schema(staging)
    assert (before.revision, before.contract_revisions) == (6, frozenset())

    state, tasks, run_id = ended(operator, CONTRACT, {"reason": REASON})

    assert (state, tasks["apply_contract"]) == ("success", "success"), tasks
    assert "amount" not in columns()
    assert not checker.check("staging").problems
    after = read_schema(staging)
    assert after.contract_revisions == {4}
    refused = rollback_is_possible(manifest(ledger, OLD), after.contract_revisions)
    assert not refused
    assert "contract migration 4" in refused.reason
    assert rollback_is_possible(manifest(ledger, CONTRACTING), after.contract_revisions)
    entry = ledger.audit.entries(environment="staging", action="schema.contracted")[0]
    assert (entry.subject, entry.detail["reason"]) == ("migration 4 drop_invoice_amount", REASON)
    record = ledger.deployments.get(CONTRACT, run_id)
    assert record.outcome == "succeeded"
    assert record.evidence_url
    assert ledger.leases.current("staging") is None
    backup = LogicalDump.model_validate(operator.xcom(CONTRACT, run_id, "backup_before_change"))
    content = ObjectStorage(staging.object_store).get_bytes(backup.key)
    assert content is not None
    assert hashlib.sha256(content).hexdigest() == backup.sha256
    assert (backup.schema_revision, backup.environment) == (6, "staging")
    left = list((paths.host_files("staging") / "var/lib/sebenza/dumps").iterdir())
    assert left == [], "the dump is still on the host"

    # A retry of the step, in a worker that knows nothing: the finished backup is found.
    again = ChangeRun(ledger, staging, Holder(CONTRACT, run_id, "operator"))
    assert backup_before_change(again) == backup

    state, tasks, _ = ended(operator, CONTRACT, {"reason": REASON})
    assert (state, tasks["apply_contract"]) == ("success", "skipped"), "nothing is due any more"


def test_a_backup_that_its_worker_left_is_found_and_sent(
    operator: AirflowClient, ledger: Ledger, staging: Environment
) -> None:
    holder = Holder(CONTRACT, "manual__killed", "operator")

    class KilledError(Exception):
        pass

    def die(_: float) -> None:
        raise KilledError

    # The worker is gone while the dump goes on by itself, or just after it.
    with contextlib.suppress(KilledError):
        LogicalDumpBackup(sleep=die).ensure(ChangeRun(ledger, staging, holder))
    backup = backup_before_change(ChangeRun(ledger, staging, holder))
    assert isinstance(backup, LogicalDump)
    content = ObjectStorage(staging.object_store).get_bytes(backup.key)
    assert content is not None
    assert hashlib.sha256(content).hexdigest() == backup.sha256
    assert backup.run == str(holder)
