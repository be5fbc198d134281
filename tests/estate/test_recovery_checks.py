"""What a restore and a disaster recovery need: the guard, a place beside the data directory, a current escrow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sebenza_ops.estate.findings import Finding, Verdict
from sebenza_ops.estate.gathered import EscrowReading
from tests.estate.readings import broken, healthy, production

STARTED = 1764126000
WITNESS = "198.51.100.33:5432"


def found(part: str, text: str, host: str = "db1") -> Finding:
    reading = healthy()
    reading.backups[host].parts[part] = text
    [finding] = broken(reading)
    assert finding.host == host
    return finding


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{STARTED}\n", "it has never run"),
        (f"{STARTED}\n{STARTED - 3600} {WITNESS}", "it did not run before the server's last start"),
        (f"{STARTED}\n{STARTED + 5} {WITNESS}", "it did not run before the server's last start"),
        (f"{STARTED}\n{STARTED - 2}", "it asks nobody"),
        (f"{STARTED}\n{STARTED - 2} 203.0.113.9:5432", "it asks 203.0.113.9:5432"),
    ],
    ids=["never", "before-another-start", "after-the-start", "asks-nobody", "asks-another"],
)
def test_a_server_that_starts_past_the_guard_is_missing_it_with_the_drop_in_that_mends_it(
    text: str, words: str
) -> None:
    finding = found("guard", text)
    assert (finding.check, finding.verdict) == ("database guard", Verdict.MISSING)
    assert words in finding.found
    for line in (
        "# on db1",
        "GUARD_DATA=/var/lib/postgresql/15/main",
        f'"GUARD_WITNESSES={WITNESS}"',
        "ExecStartPre=/usr/sbin/runuser -u postgres -- /usr/local/lib/sebenza/database-guard.sh",
        "systemctl daemon-reload",
    ):
        assert line in finding.fix


def test_a_server_that_does_not_run_tells_nothing_of_its_guard() -> None:
    assert found("guard", "").verdict is Verdict.NO_DATA


def test_the_guard_is_asked_for_only_where_a_disaster_recovery_is_configured() -> None:
    reading, environment = healthy(), production()
    for each in reading.backups.values():
        each.parts["guard"] = ""
    policies = environment.policies.model_copy(update={"disaster_recovery": None})
    reading.sites = []
    wrong = broken(reading, environment.model_copy(update={"policies": policies}))
    assert "database guard" not in {finding.check for finding in wrong}


def test_a_place_where_no_restored_cluster_could_be_made_is_missing() -> None:
    finding = found("beside", "!not writable", "db2")
    assert (finding.check, finding.verdict) == ("restore: beside the data directory", Verdict.MISSING)
    assert "sudo chown postgres: /var/lib/postgresql/15" in finding.fix


@pytest.mark.parametrize(
    ("reading", "verdict", "words"),
    [
        (EscrowReading("escrow/production.yaml.age"), Verdict.MISSING, "there is no escrow/production.yaml.age"),
        (EscrowReading("escrow/production.yaml.age", 20 * 86400.0), Verdict.MISSING, "20 days old"),
        (EscrowReading("escrow/production.yaml.age", error="AccessDenied"), Verdict.NO_DATA, "AccessDenied"),
    ],
    ids=["none", "old", "unreadable"],
)
def test_credentials_that_are_not_sealed_at_the_site_are_missing(
    reading: EscrowReading, verdict: Verdict, words: str
) -> None:
    estate = healthy()
    estate.sites[0] = replace(estate.sites[0], escrow=reading)
    [finding] = broken(estate)
    assert (finding.host, finding.check, finding.verdict) == ("object storage (secondary)", "escrow", verdict)
    assert words in finding.found
    assert "escrow_credentials.production" in finding.fix
