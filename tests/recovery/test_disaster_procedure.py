"""The whole primary site is killed, ledger and storage too; production is recovered from the secondary site alone."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import addresses, faults, nameserver, paths, postgres, secondary_site
from lab import estate as lab_estate
from lab.commit_writer import CommitWriter
from lab.load.generator import LoadGenerator
from lab.secrets import lab_secrets
from lab.site_faults import kill_site
from lab.waiting import until
from sebenza_ops.ledger import Ledger
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
    yield estate
    faults.mend()
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


def test_production_is_recovered_from_the_secondary_site_with_the_primary_one_gone(sites: Any, tmp_path: Path) -> None:
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
        rate=20,
        duration_seconds=4,
        write_share=0.3,
    ) as users:
        report = users.wait()
    assert report.requests > 40
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
    faults.mend()
    with writer("dbendpoint2") as after:
        until(lambda: len(after.acknowledged) > 50, "it writes at the secondary site")
    assert after.missing((addresses.address("db3"), PORT)) == []
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == [addresses.address("lb3")]
    for host in ("db1", "db2"):
        with postgres.connect(host) as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            assert cursor.fetchone() == (True,), f"{host} takes writes beside db3"
