"""Staging gets production's data in the lab: nothing personal comes along, what nobody has declared stops it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from lab import checker, paths, postgres
from lab.accounts import DATABASE_USER
from lab.addresses import POSTGRES_PORT
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.hosts import ENVIRONMENTS
from sebenza_ops.ledger import Ledger
from tests.deployment.test_lease_procedures import ended
from tests.schedules import switched_on

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

BACKUP, REFRESH = "backup_database.production", "refresh_staging.staging"
PRODUCTION, STAGING = ENVIRONMENTS["production"].database_name, ENVIRONMENTS["staging"].database_name
PERSON, MAIL = "Nomvula Planted-Person", "nomvula.planted@private.example"


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LAB_DIR}/ledger/ledger.db")


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """Both environments as they begin; production has a person that nobody but the test knows."""
    estate.reset("production")
    estate.reset("staging")
    with airflow.client("operator") as client, airflow.client("admin") as admin:
        with in_production() as cursor:
            cursor.execute("INSERT INTO users (email, name) VALUES (%s, %s)", (MAIL, PERSON))
        switched_on(client, admin, BACKUP)
        yield client
        with in_production() as cursor:
            cursor.execute("DELETE FROM users WHERE email = %s", (MAIL,))
        for dag_id in (REFRESH, BACKUP):
            admin.set_paused(dag_id, True)
    with postgres.connect("staging") as cursor:
        for name in kept_aside():
            cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    estate.reset("staging")


def in_production() -> Any:
    return postgres.connect(postgres.primary_of_production(), PRODUCTION)


def kept_aside() -> list[str]:
    with postgres.connect("staging") as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname LIKE %s ORDER BY 1", (f"{STAGING}_%",))
        return [str(name) for (name,) in cursor.fetchall()]


def all_of_staging() -> str:
    """Everything in staging's database, as pg_dump tells it."""
    command = ["runuser", "-u", DATABASE_USER, "--", str(paths.POSTGRES_BIN / "pg_dump"), "--port", str(POSTGRES_PORT)]
    command += ["--host", str(paths.host_files("staging") / "run/postgresql"), "--username", "postgres", STAGING]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout
    # Newer ones begin and end with a word of their own, each time another.
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict ", "\\unrestrict ")))


def backed_up(operator: AirflowClient) -> None:
    state, tasks, _ = ended(operator, BACKUP, {"type": "auto"})
    assert state == "success", tasks


def test_staging_gets_productions_rows_and_nobodys_name(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    with in_production() as cursor:
        cursor.execute("SELECT count(*) FROM users")
        (users,) = cursor.fetchone()
    before = all_of_staging()
    backed_up(operator)

    # The schedule's own first run refreshes it, and then this one once more.
    with airflow.client("admin") as admin:
        switched_on(operator, admin, REFRESH)
    state, tasks, run_id = ended(operator, REFRESH, {})

    assert state == "success", (tasks, operator.logs(REFRESH, run_id, "take_snapshot"))
    text = all_of_staging()
    assert text != before
    for value in (PERSON, MAIL, "@sebenza.example"):
        assert value not in text
    with postgres.connect("staging", STAGING) as cursor:
        cursor.execute("SELECT count(*), count(*) FILTER (WHERE email LIKE '%@example.invalid') FROM users")
        assert cursor.fetchone() == (users, users)
    aside = kept_aside()[-1]
    assert aside.startswith(f"{STAGING}_before_")
    summary = operator.xcom(REFRESH, run_id, "exchange_database")
    assert aside in summary
    assert "public.users.email (email" in summary
    assert not checker.check("staging").problems
    entry = ledger.audit.entries(environment="staging", action="database.refreshed")[0]
    assert entry.detail["kept_as"] == aside
    assert ledger.leases.current("staging") is None
    assert ledger.leases.current("production.backup") is None
    work_dir = paths.host_files("db2") / "var/lib/sebenza-backup"
    assert list(work_dir.glob("*-refresh")) == [], "what is personal lies around on the host"
    told = str([operator.logs(REFRESH, run_id, task) for task in tasks]) + str(ledger.evidence.entries(REFRESH, run_id))
    assert MAIL not in told
    assert PERSON not in told


def test_a_new_column_that_looks_personal_stops_it(operator: AirflowClient, ledger: Ledger) -> None:
    there = all_of_staging()
    with in_production() as cursor:
        cursor.execute("ALTER TABLE clients ADD contact_phone text")
    try:
        backed_up(operator)
        state, tasks, run_id = ended(operator, REFRESH, {})
    finally:
        with in_production() as cursor:
            cursor.execute("ALTER TABLE clients DROP contact_phone")
    assert (state, tasks["take_snapshot"], tasks["acquire_lease"]) == ("failed", "failed", "upstream_failed")
    log = str(operator.logs(REFRESH, run_id, "take_snapshot"))
    assert "undeclared columns look personal: public.clients.contact_phone (by its name)" in log
    assert all_of_staging() == there
    assert ledger.leases.current("production.backup") is None


def test_an_application_that_does_not_come_back_gets_its_database_back(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger, faults: ModuleType
) -> None:
    with airflow.client("admin") as admin:
        switched_on(operator, admin, REFRESH)
    # The newest set may be one with a column that stops it.
    backed_up(operator)
    there, aside = all_of_staging(), kept_aside()
    # Found out after the exchange only: processes and load balancer look as always.
    with faults.kill("staging", "nginx"):
        run_id = operator.trigger(REFRESH, {})
        assert operator.await_state(REFRESH, run_id, timeout_seconds=400) == "failed"
    tasks = {task.task_id: task.state for task in operator.task_instances(REFRESH, run_id)}
    assert (tasks["restore_beside"], tasks["exchange_database"], tasks["finish"]) == ("success", "failed", "failed")
    log = str(operator.logs(REFRESH, run_id, "exchange_database"))
    assert "It was taken back: " in log
    assert "not healthy with that either" in log
    assert all_of_staging() == there
    assert kept_aside() == aside
    assert ledger.leases.current("staging") is None
