"""The escrow: what is in it, who opens it, and that it holds what a recovery needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sebenza_ops.break_glass.credentials import check_credentials
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
from sebenza_ops.recovery.escrow import (
    SEALED_ACTION,
    escrowed_ids,
    gather,
    keys_of,
    open_escrow,
    seal,
    stale_ids,
)
from sebenza_ops.systems.age import Identity, SealError, escrow_key
from tests.systems.estates import changed
from tests.systems.s3 import S3Server, s3_server

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as found:
        yield found


def new_identity() -> str:
    import subprocess

    done = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True)
    return next(line for line in done.stdout.splitlines() if line.startswith("AGE-SECRET-KEY-"))


@pytest.fixture
def secret() -> str:
    return new_identity()


@pytest.fixture
def environment(s3: S3Server, secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """Production, its secondary site's storage on a real server, and every connection that it names."""
    shipped = changed("production")
    recovery = shipped.policies.disaster_recovery
    assert recovery is not None
    assert recovery.escrow is not None
    escrow = recovery.escrow.model_copy(update={"recipient": Identity(secret).recipient})
    policies = shipped.policies.model_copy(update={"disaster_recovery": recovery.model_copy(update={"escrow": escrow})})
    second = shipped.secondary_site
    assert second is not None
    storage = second.object_store
    assert storage is not None
    second = second.model_copy(update={"object_store": storage.model_copy(update={"bucket": "sebenza"})})
    found = shipped.model_copy(update={"sites": (shipped.primary_site, second), "policies": policies})
    key_file = tmp_path / "deploy_key"
    key_file.write_text("-----BEGIN KEY-----\nabc\n")
    for conn_id in escrowed_ids(found):
        value: dict[str, Any] = {"conn_type": "generic", "login": conn_id, "password": f"password of {conn_id}"}
        if conn_id.endswith("_ssh"):
            value = {"conn_type": "ssh", "login": "sebenza", "extra": {"key_file": str(key_file)}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(value))
    monkeypatch.setenv(f"AIRFLOW_CONN_{storage.conn_id.upper()}", s3.connection())
    identity = json.dumps({"conn_type": "generic", "password": secret})
    monkeypatch.setenv(f"AIRFLOW_CONN_{escrow.identity_conn_id.upper()}", identity)
    return found


@pytest.fixture
def run(environment: Environment, tmp_path: Path) -> ChangeRun:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    return ChangeRun(ledger, environment, Holder("escrow_credentials.production", "manual__1", "thandi"))


def test_what_the_secondary_site_needs_is_named_and_the_key_of_the_escrow_is_not() -> None:
    ids = escrowed_ids(changed("production"))
    for wanted in (
        "sebenza_production_ssh",
        "sebenza_production_database_ssh",
        "sebenza_production_secondary_database",
        "sebenza_secondary_object_store",
        "sebenza_production_secondary_backup_repository",
        "sebenza_production_backup_cipher",
        "sebenza_dns",
        "sebenza_pagerduty",
    ):
        assert wanted in ids
    assert "sebenza_production_escrow_identity" not in ids
    # What leads to the lost site is of no use there.
    assert "sebenza_object_store" not in ids
    assert "sebenza_production_backup_repository" not in ids


def test_sealed_for_the_operators_it_opens_with_their_identity_only(
    run: ChangeRun, environment: Environment, s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "are sealed for age1" in seal(run)
    sealed = (s3.directory / "data" / "sebenza" / escrow_key(environment.name)).read_bytes()
    assert b"password of" not in sealed
    opened = open_escrow(environment)
    assert set(opened) == set(escrowed_ids(environment))
    keys = keys_of(environment, opened)
    assert keys.passphrase == "password of sebenza_production_backup_cipher"
    assert keys.key_id == "sebenza_production_secondary_backup_repository"
    assert "password" not in repr(keys)
    # Keys that lie in files of this machine travel along.
    ssh = opened["sebenza_production_ssh"]["extra"]
    assert ssh == {"private_key": "-----BEGIN KEY-----\nabc\n"}
    # It is what break-glass reads.
    file = tmp_path / "credentials.yaml"
    file.write_text(yaml.safe_dump(opened))
    file.chmod(0o600)
    check_credentials(file, [environment.ssh_conn_id])
    entry = run.ledger.audit.entries(environment="production", action=SEALED_ACTION)[0]
    assert "password of" not in json.dumps(entry.detail)

    conn_id = "AIRFLOW_CONN_SEBENZA_PRODUCTION_ESCROW_IDENTITY"
    monkeypatch.setenv(conn_id, json.dumps({"conn_type": "generic", "password": new_identity()}))
    with pytest.raises(SealError):
        open_escrow(environment)


def test_a_connection_that_is_missing_or_another_one_by_now_is_named(
    run: ChangeRun, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal(run)
    escrowed = open_escrow(environment)
    assert stale_ids(escrowed, gather(escrowed_ids(environment))[0]) == []
    value = json.dumps({"conn_type": "generic", "password": "rotated"})
    monkeypatch.setenv("AIRFLOW_CONN_SEBENZA_PRODUCTION_BACKUP_CIPHER", value)
    assert stale_ids(escrowed, gather(escrowed_ids(environment))[0]) == ["sebenza_production_backup_cipher"]
    monkeypatch.delenv("AIRFLOW_CONN_SEBENZA_DNS")
    with pytest.raises(DisasterRefusedError, match="the connections sebenza_dns, which"):
        seal(run)
    del escrowed["sebenza_production_backup_cipher"]
    with pytest.raises(DisasterRefusedError, match="lacks 'sebenza_production_backup_cipher'"):
        keys_of(environment, escrowed)
