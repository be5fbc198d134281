"""A snapshot of a refresh on a real cluster and repository: from the set, without what is personal, or not at all."""

from __future__ import annotations

import subprocess
import tempfile

import pytest

from lab import paths
from sebenza_ops.backup import steps
from sebenza_ops.backup.dump_steps import dump_database
from sebenza_ops.backup.errors import BackupRefusedError
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.environments.refresh_policy import RefreshPolicy
from sebenza_ops.ledger import BackupKind, Holder, Ledger
from sebenza_ops.recovery import refresh_steps
from sebenza_ops.recovery.refresh_steps import Snapshot, plan_refresh, take_snapshot
from sebenza_ops.systems.object_store import ObjectStorage
from tests.backup.conftest import server
from tests.backup.local_hosts import reach
from tests.backup.repository_server import RepositoryServer
from tests.systems.estates import shipped

__all__ = ["server"]

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

PERSON, MAIL = "Nomvula Planted-Person", "nomvula@private.example"
COLUMNS = [{"table": "public.people", "column": "mail", "how": "email"}]


@pytest.fixture(autouse=True)
def hosts(server: RepositoryServer, monkeypatch: pytest.MonkeyPatch) -> None:
    reach(server, monkeypatch, steps, refresh_steps)


def target(columns: list[dict[str, str]]) -> Environment:
    staging = shipped("staging")
    refresh = RefreshPolicy.model_validate({"source": "production", "columns": columns})
    policies = staging.policies.model_copy(update={"refresh": refresh})
    return staging.model_copy(update={"policies": policies})


def a_run(server: RepositoryServer, ledger: Ledger, dag_id: str, run_id: str) -> ChangeRun:
    run = ChangeRun(ledger, server.environment, Holder(dag_id, run_id, "thandi"), lease_name="production.backup")
    steps.take_lease(run)
    return run


def backed_up(server: RepositoryServer, ledger: Ledger, *, verified: bool) -> str:
    run = a_run(server, ledger, "backup_database.production", f"manual__{verified}")
    plan = steps.plan_backup(run, "full")
    label = steps.back_up(run, plan)
    dump_database(run, plan, label)
    if verified:
        ledger.backup_sets.mark_verified("production", BackupKind.PHYSICAL, [label])
    run.release("the run has ended")
    return label


def restored_text(snapshot: Snapshot) -> str:
    content = ObjectStorage(shipped("staging").object_store).get_bytes(snapshot.key)
    assert content is not None
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        command = [str(paths.POSTGRES_BIN / "pg_restore"), "--file=-", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.long
def test_a_verified_set_becomes_a_dump_without_what_is_personal(server: RepositoryServer, ledger: Ledger) -> None:
    with server.connect() as connection:
        connection.execute("CREATE TABLE people (mail text, alias text)")
        connection.execute("INSERT INTO people VALUES (%s, %s)", (MAIL, PERSON))
    run = a_run(server, ledger, "refresh_staging.staging", "manual__0")
    with pytest.raises(BackupRefusedError, match="production has no verified set with a manifest"):
        plan_refresh(run, target(COLUMNS))
    run.release("refused")
    label = backed_up(server, ledger, verified=True)
    backed_up(server, ledger, verified=False)
    with server.connect() as connection:
        connection.execute("INSERT INTO people VALUES ('later@private.example', 'later')")

    # Whoever has declared too little learns it before anything has left the host.
    run = a_run(server, ledger, "refresh_staging.staging", "manual__1")
    with server.connect() as connection:
        connection.execute("SELECT 1")
    narrow = target([{"table": "public.orders", "column": "name", "how": "hash"}])
    plan = plan_refresh(run, narrow)
    assert plan.label == label, "a set that nobody has read back is taken"
    with pytest.raises(BackupRefusedError, match=f"no verified set 'x'; there are: {label}"):
        plan_refresh(run, narrow, "x")
    with pytest.raises(BackupRefusedError, match=r"undeclared columns look personal: public\.people\.mail"):
        take_snapshot(run, plan, narrow)
    assert ObjectStorage(narrow.object_store).keys("backups/refresh/") == {}
    run.release("refused")

    whole = target([*COLUMNS, {"table": "public.people", "column": "alias", "how": "name"}])
    run = a_run(server, ledger, "refresh_staging.staging", "manual__2")
    plan = plan_refresh(run, whole)
    snapshot = take_snapshot(run, plan, whole)
    text = restored_text(snapshot)
    for value in (MAIL, PERSON, "later"):
        assert value not in text, value
    assert "@example.invalid" in text
    assert snapshot.rows == {"public.orders": 5000, "public.people": 1}
    assert "public.people.mail (email, 1 rows)" in snapshot.anonymized
    assert list((server.root / "var/lib/sebenza-backup").glob(f"{plan.job}*")) == [], "personal data lies around"
    with server.connect() as connection:
        assert connection.execute("SELECT count(*) FROM people WHERE mail = %s", (MAIL,)).fetchone() == (1,)
