"""The whole primary site is killed, ledger and storage too; production is recovered from the secondary site alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import addresses, application_hosts, backups, faults, nameserver, object_copy, paths, postgres, secondary_site
from lab import estate as lab_estate
from lab.commit_writer import CommitWriter
from lab.connections import connections
from lab.load.generator import LoadGenerator
from lab.secrets import lab_secrets
from lab.site_faults import kill_site
from lab.waiting import until
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.recovery.disaster_application import serve_release
from sebenza_ops.recovery.disaster_dns import lead_users, restore_ttl
from sebenza_ops.recovery.disaster_drill import clean_up, judge_drill, plan_drill, restore_copy, serve_copy
from sebenza_ops.recovery.disaster_record import start_record
from sebenza_ops.recovery.disaster_verify import verify_recovery
from sebenza_ops.recovery.escrow import seal
from sebenza_ops.recovery.failback import move_back, plan_failback, restore_replication, resynchronize
from sebenza_ops.systems.drill_instance import RestoredCopy
from tests.break_glass.test_break_glass import Session

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

RECOVERY, REASON = "disaster_recovery.production", "the primary site does not answer"
APPROVE = "Recover at the secondary site"
PORT = addresses.POSTGRES_PORT


@pytest.fixture(scope="module")
def sites(estate: Any) -> Iterator[Any]:
    """The lab with its secondary site; production is at the primary one afterwards."""
    secondary_site.turn_on()
    lab_estate.up(lab_estate.Progress())
    if secondary_site.is_active():
        estate.reset("production")
    yield estate
    # Production is not well at the primary site before the reset.
    faults.mend(wait_for_health=False)
    estate.reset("production")


def break_glass(tmp_path: Path, conf: dict[str, Any]) -> Session:
    """At the secondary site: its own credentials, nothing else."""
    variables = {
        "SEBENZA_BREAK_GLASS_HOME": str(tmp_path / "home"),
        "SEBENZA_BREAK_GLASS_CREDENTIALS": str(paths.SECONDARY_CONNECTIONS_FILE),
        "SEBENZA_ENVIRONMENTS": str(paths.ENVIRONMENTS_DIR),
        "SEBENZA_JOURNAL": str(tmp_path / "journal"),
        "PYTHONPATH": f"{paths.CHECKOUT}/plugins",
    }
    argv = [sys.executable, "-m", "sebenza_ops.break_glass", RECOVERY, "--conf", json.dumps(conf), "--reason", REASON]
    return Session(argv, variables)


def writer(endpoint: str) -> CommitWriter:
    return CommitWriter((addresses.address(endpoint), PORT), "postgres", lab_secrets().postgres_superuser)


@pytest.fixture
def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs with the lab's connections and a ledger of their own, without Airflow."""
    for conn_id, value in connections().items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(value))
    ledger = Ledger.open(f"sqlite:///{tmp_path}/steps.db")
    ledger.migrate()

    def make(procedure: str, lease_name: str | None = None) -> ChangeRun:
        environment = load_inventory(paths.ENVIRONMENTS_DIR).environments["production"]
        holder = Holder(f"{procedure}.production", "manual__1", "thandi")
        run = ChangeRun(ledger, environment, holder, lease_name=lease_name)
        # Above what the hosts have seen of other ledgers.
        run.acquire(procedure, 600, 1000)
        start_record(run, procedure)
        return run

    return make


def test_a_drill_opens_the_backups_with_escrowed_keys_and_touches_no_user(sites: Any, run_of: Any) -> None:
    backups.ensure_stanza("db1")
    primary = postgres.primary_of_production()
    done = backups.run(primary, "--type=full", "backup", timeout_seconds=120)
    assert done.returncode == 0, done.stderr
    assert backups.run(primary, "check").returncode == 0
    copied = object_copy.completed_at()
    until(lambda: object_copy.completed_at() > copied, "a round of copying has begun and ended", 60)
    copied = object_copy.completed_at()
    until(lambda: object_copy.completed_at() > copied, "a whole round of copying has ended", 60)
    live, names = application_hosts.live_color("lb3"), nameserver.ask(nameserver.RESOLVER, "app.sebenza.com")
    assert "are sealed for age1" in seal(run_of("escrow_credentials"))
    run = run_of("disaster_recovery_drill", "production.drill")
    plan = plan_drill(run, "")
    assert plan.color.value != live
    try:
        copy = RestoredCopy(**restore_copy(run, plan))
        served_at = serve_copy(run, plan)
        answer = application_hosts.version_answer("app4", plan.color.value)
        assert answer is not None
        assert "MISSED" not in judge_drill(run, plan, copy, served_at)
    finally:
        clean_up(run, plan)
    print(f"\n{copy}, from the start {served_at - plan.started_at:.1f} s")
    assert application_hosts.processes("app4") == []
    assert (application_hosts.live_color("lb3"), nameserver.ask(nameserver.RESOLVER, "app.sebenza.com")) == (
        live,
        names,
    )
    assert secondary_site.streams()


def test_production_is_recovered_from_the_secondary_site_with_the_primary_one_gone(
    sites: Any, tmp_path: Path, run_of: Any, rate_for: Callable[[float], float]
) -> None:
    rate = rate_for(20)
    before = nameserver.ask(nameserver.RESOLVER, "app.sebenza.com")
    assert before == sorted(addresses.address(name) for name in ("lb1", "lb2"))
    with writer("dbendpoint") as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        kill_site("primary", airflow=False)
        killed_at = time.time()
        until(lambda: bool(client.errors), "nobody can write")
        client.stop()
    session = break_glass(tmp_path, {"type": "failover"})
    session.until("to go on, anything else to end", 240)
    assert "The site primary is **lost**" in session.text
    assert "db1, db2 can't be reached, so nothing can be stopped there" in session.text
    assert "Recommended: **`failover`**" in session.text
    decided_at = time.time()
    session.answer(APPROVE)
    session.until("Why:")
    session.answer("the site's operator says that it burns")
    code = session.exit_code()
    recovered_at = time.time()
    assert code == 0, session.text[-4000:]
    print(f"\nfrom the kill {recovered_at - killed_at:.1f} s, from the decision {recovered_at - decided_at:.1f} s")
    print(session.text[-1500:])

    # By what shares no code with the procedure.
    with postgres.connect("db3") as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        assert cursor.fetchone() == (False,)
    for server in (nameserver.AUTHORITATIVE, nameserver.RESOLVER):
        assert nameserver.ask(server, "app.sebenza.com") == [addresses.address("lb3")]
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
    # What was lost is what the question said at most; its clock is the standby's last commit.
    lost = client.missing((addresses.address("db3"), PORT))
    shown_seconds = float(session.text.split("at most the last ")[1].split(" s of commits")[0])
    print(f"lost {len(lost)} of {len(client.acknowledged)} commits; shown: the last {shown_seconds} s")
    assert not [each for each in lost if each.at < killed_at - shown_seconds - 1]

    ledger = Ledger.open(f"sqlite:///{paths.SECONDARY_CONNECTIONS_FILE.with_name('ledger.db')}")
    record = ledger.deployments.recent("production", limit=1)[0]
    assert "production is served from secondary (failover)" in str(record.detail)
    assert record.evidence_url, "the report is in the site's own storage"
    measured = ledger.audit.entries(environment="production", action="disaster.recovered")[0].detail
    assert measured["rto_seconds"] <= recovered_at - killed_at + 2
    assert measured["rpo_seconds"] is not None
    unfenced = ledger.audit.entries(environment="production", action="database.left_unfenced")[0]
    assert unfenced.subject == "db1, db2"
    assert ledger.leases.current("production") is None

    # The site comes back with its old primary: users stay where they are, and their data are in one place.
    faults.mend(wait_for_health=False)
    with writer("dbendpoint2") as after:
        until(lambda: len(after.acknowledged) > 50, "it writes at the secondary site")
    assert after.missing((addresses.address("db3"), PORT)) == []
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == [addresses.address("lb3")]
    for host in ("db1", "db2"):
        with postgres.connect(host) as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            assert cursor.fetchone() == (True,), f"{host} takes writes beside db3"

    # And back, with nothing lost.
    back = run_of("failback")
    with writer("dbendpoint2") as at_second:
        until(lambda: len(at_second.acknowledged) > 50, "it writes at the secondary site")
        plan = plan_failback(back, "")
        resynchronize(back, plan, "lindiwe")
        move_back(back, plan)
        at_second.stop()
    serve_release(back, plan, plan.release_id)
    lead_users(back, plan.from_site, plan.to_site)
    verify_recovery(back, plan)
    restore_ttl(back, plan.to_site)
    restore_replication(back, plan, "lindiwe")
    assert at_second.missing((addresses.address("dbendpoint"), PORT)) == []
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == before
    assert secondary_site.streams()
