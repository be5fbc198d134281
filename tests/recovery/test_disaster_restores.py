"""The whole primary site and the standby are gone: production is made anew at the secondary site from its own backups.

By break-glass, with the secondary site's credentials and nothing of the primary one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg2
import pytest

from lab import addresses, backups, faults, nameserver, object_copy, paths, postgres, secondary_site
from lab import estate as lab_estate
from lab.commit_writer import CommitWriter
from lab.load.generator import LoadGenerator
from lab.secrets import lab_secrets
from lab.site_faults import kill_site
from lab.waiting import until
from sebenza_ops.backup.dump_steps import dump_database
from sebenza_ops.backup.jobs import JobRunning
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import load
from sebenza_ops.ledger import Ledger
from sebenza_ops.systems.pgbackrest import PgBackRest
from sebenza_ops.systems.ssh import open_session
from tests.recovery.test_disaster_procedure import APPROVE, break_glass, run_of, writer

__all__ = ["run_of"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1500)]

LATER = "visits_of_before"
PORT = addresses.POSTGRES_PORT


@pytest.fixture(scope="module")
def sites(estate: Any) -> Iterator[Any]:
    """The lab with its secondary site, and a table that is not critical; production is as before afterwards."""
    secondary_site.turn_on()
    lab_estate.up(lab_estate.Progress())
    if secondary_site.is_active():
        estate.reset("production")
    backups.ensure_stanza("db1")
    with postgres.connect(postgres.primary_of_production(), "sebenza_logistics") as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {LATER}")
        cursor.execute(f"CREATE TABLE {LATER} AS SELECT n, md5(n::text) AS text FROM generate_series(1, 20000) n")
        cursor.execute(f"ALTER TABLE {LATER} OWNER TO sebenza")
    yield estate
    back_to_normal(estate)
    with postgres.connect(postgres.primary_of_production(), "sebenza_logistics") as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {LATER}")


@pytest.fixture
def backed_up(sites: Any, run_of: Any) -> None:
    """A set with its dump and manifest, as `backup_database` leaves them."""
    primary = postgres.primary_of_production()
    done = backups.run(primary, "--type=full", "backup", timeout_seconds=240)
    assert done.returncode == 0, done.stderr
    run = run_of("backup_database", "production.backup")
    with open_session(run.environment.host(primary), str(run.environment.database.ssh_conn_id)) as session:
        label = PgBackRest(run.environment, session).info().sets[-1].label
    plan = BackupPlan(
        environment="production", job=uuid4().hex, backup_type="full", reason="a test", host=primary,
        primary=primary, from_replica=False,
    )  # fmt: skip
    until(lambda: is_dumped(run, plan, label), "the dump is sent", 120)


def is_dumped(run: ChangeRun, plan: BackupPlan, label: str) -> bool:
    try:
        return bool(dump_database(run, plan, label))
    except JobRunning:
        return False


def copied() -> None:
    """A whole round of copying has begun and ended."""
    for _ in range(2):
        before = object_copy.completed_at()
        until(partial(is_past, before), "a round of copying has ended", 60)


def is_past(moment: str) -> bool:
    return object_copy.completed_at() > moment


def lost_site(client: CommitWriter) -> float:
    """Commits are archived and copied, some more are not; then everything is gone. Returns when the archive ended."""
    primary = postgres.primary_of_production()
    # It switches the segment first, and then waits until that is archived: what comes meanwhile is in the next one.
    archived_at = time.time()
    assert backups.run(primary, "check").returncode == 0
    copied()
    now = len(client.acknowledged)
    until(lambda: len(client.acknowledged) > now + 30, "it writes on, what nobody archives")
    kill_site("primary", airflow=False)
    secondary_site.destroy_standby()
    until(lambda: bool(client.errors), "nobody can write")
    client.stop()
    return archived_at


def served(rate: float) -> None:
    """Users are served there, by what shares no code with the procedure."""
    with postgres.connect("db3") as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        assert cursor.fetchone() == (False,)
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == [addresses.address("lb3")]
    with LoadGenerator(
        load_balancers={"lb3": (addresses.address("lb3"), addresses.HTTPS_PORT)},
        ca_file=paths.CA_FILE,
        rate=rate,
        duration_seconds=4,
        write_share=0.3,
    ) as users:
        report = users.wait()
    assert report.requests > 2 * rate
    assert report.failed == 0, report.failed_requests[:3]


def recovered(tmp_path: Path, conf: dict[str, Any], shown: tuple[str, ...]) -> tuple[str, float]:
    """The text of the session, and how long the recovery took from its start."""
    began = time.monotonic()
    session = break_glass(tmp_path, conf)
    session.until("to go on, anything else to end", 500)
    for text in shown:
        assert text in session.text, session.text[-3000:]
    session.answer(APPROVE)
    session.until("Why:")
    session.answer("the site's operator says that it burns")
    code = session.exit_code()
    assert code == 0, session.text[-6000:]
    return session.text, time.monotonic() - began


def back_to_normal(estate: Any) -> None:
    faults.mend(wait_for_health=False)
    estate.reset("production")


def test_all_of_it_is_restored_at_the_secondary_site_up_to_the_last_archived_commit(
    backed_up: None, estate: Any, tmp_path: Path, rate_for: Callable[[float], float]
) -> None:
    rate = rate_for(20)
    with writer("dbendpoint") as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        archived_at = lost_site(client)
    killed_at = client.errors[0][0]
    text, took = recovered(
        tmp_path,
        {},
        (
            "The standby can't take over",
            "Recommended: **`full`**",
            "all of the database is restored on db3",
            "at most the last",
        ),
    )
    served(rate)
    lost = client.missing((addresses.address("db3"), PORT))
    wrong = [each for each in lost if each.at <= archived_at]
    print(
        f"\nrestored and served {took:.1f} s after the start, {time.time() - killed_at:.1f} s after the kill; lost "
        f"{len(lost)} of {len(client.acknowledged)} commits, {len(wrong)} of them archived"
    )
    assert wrong == [], "archived commits are missing"
    shown_seconds = float(text.split("at most the last ")[1].split(" s of commits")[0])
    assert not [each for each in lost if each.at < killed_at - shown_seconds - 1]
    with postgres.connect("db3", "sebenza_logistics") as cursor:
        cursor.execute(f"SELECT count(*) FROM {LATER}")
        assert cursor.fetchone() == (20000,)
    ledger = Ledger.open(f"sqlite:///{paths.SECONDARY_CONNECTIONS_FILE.with_name('ledger.db')}")
    record = ledger.deployments.recent("production", limit=1)[0]
    assert "production is served from secondary (full)" in str(record.detail)
    measured = ledger.audit.entries(environment="production", action="disaster.recovered")[0].detail
    print(f"RTO {measured['rto_from_start_seconds']:.1f} s from the start, RPO {measured['rpo_seconds']:.1f} s")
    back_to_normal(estate)


def test_the_critical_tables_serve_first_and_the_rest_follows_in_the_same_run(
    backed_up: None, estate: Any, tmp_path: Path, rate_for: Callable[[float], float]
) -> None:
    rate = rate_for(20)
    with writer("dbendpoint") as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        lost_site(client)
    _, took = recovered(
        tmp_path,
        {"type": "partial"},
        ("partial was asked for; recommended is full", "the critical tables are restored on db3 first",
         "everything since the dump"),
    )  # fmt: skip
    served(rate)
    print(f"\nall of it {took:.1f} s after the start")
    with psycopg2.connect(
        host=addresses.address("dbendpoint2"), port=PORT, user="sebenza",
        password=lab_secrets().database("production"), dbname="sebenza_logistics",
    ) as connection, connection.cursor() as cursor:  # fmt: skip
        cursor.execute(f"SELECT count(*) FROM {LATER}")
        assert cursor.fetchone() == (20000,)
    ledger = Ledger.open(f"sqlite:///{paths.SECONDARY_CONNECTIONS_FILE.with_name('ledger.db')}")
    record = ledger.deployments.recent("production", limit=1)[0]
    told = [entry.text for entry in load(ledger, record.holder.dag_id, record.holder.run_id).timeline]
    assert any("come first" in text for text in told), told
    progress = record.progress["disaster_recovery"]
    print(f"critical tables served {progress['whole_at'] - progress['served_at']:.1f} s before the rest")
    assert progress["served_at"] < progress["whole_at"]
    back_to_normal(estate)
