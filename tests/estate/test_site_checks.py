"""What a disaster recovery needs of the site that waits and of DNS: each thing that is missing is one finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sebenza_ops.estate.findings import Finding, Verdict
from sebenza_ops.estate.gathered import DnsReading, DnsRecordReading, EstateReading, StorageReading
from sebenza_ops.estate.site_checks import LAG_BYTES
from sebenza_ops.systems.dns_records import Answer, RecordSet
from sebenza_ops.systems.errors import OutsideSystemError
from tests.estate.readings import broken, database_state, healthy, production, report

NAME = "app.sebenza.com"
Change = Callable[[EstateReading], None]


def standby(**changes: Any) -> Change:
    def change(reading: EstateReading) -> None:
        reading.sites[0].standbys["db3"] = database_state("db3", **({"in_recovery": True} | changes))

    return change


def record(**changes: Any) -> Change:
    def change(reading: EstateReading) -> None:
        assert reading.dns is not None
        records = {NAME: replace(reading.dns.records[NAME], **changes)}
        reading.dns = DnsReading(records=records)

    return change


def site(**changes: Any) -> Change:
    def change(reading: EstateReading) -> None:
        reading.sites[0] = replace(reading.sites[0], **changes)

    return change


def unasked(reading: EstateReading) -> None:
    reading.sites[0].standbys["db3"] = OutsideSystemError("no route to host", host="db3")


def no_primary(reading: EstateReading) -> None:
    reading.sites[0].primaries["db1"] = OutsideSystemError("no route to host", host="db1")


def no_dns(reading: EstateReading) -> None:
    reading.dns = DnsReading(error="the connection sebenza_dns has no login (the key's name) or no password")


def answer_of_a_cache(reading: EstateReading) -> None:
    assert reading.dns is not None
    reading.dns.records[NAME].answers["9.9.9.9:53"] = Answer(("198.51.100.13",), 12)


BROKEN: list[tuple[Change, str, str, Verdict, str]] = [
    (standby(receiver=None), "site secondary", "standby db3", Verdict.MISSING, "a replica on timeline 1"),
    (standby(timeline=2), "site secondary", "standby db3", Verdict.MISSING, "the primary is a primary on timeline 1"),
    (standby(system_identifier="1"), "site secondary", "standby db3", Verdict.MISSING, "the primary is"),
    (standby(in_recovery=False), "site secondary", "standby db3", Verdict.MISSING, "while site primary serves"),
    (standby(replay_paused=True), "site secondary", "standby db3", Verdict.WARNING, "replay is paused"),
    (unasked, "site secondary", "standby db3", Verdict.MISSING, "no route to host"),
    (no_primary, "site secondary", "standby db3", Verdict.NO_DATA, "the primary could not be asked"),
    (site(copy_seconds=None, copy_error="not there within 60 s"), "object storage (secondary)", "copy",
     Verdict.MISSING, "not there within 60 s"),
    (site(copy_seconds=901.0), "object storage (secondary)", "copy", Verdict.MISSING, "after 901 s"),
    (site(copy_seconds=None), "object storage (secondary)", "copy", Verdict.NO_DATA, "the storage does not work"),
    (site(storage=StorageReading("https://storage2.sebenza.com", True, {"write": "AccessDenied"})),
     "object storage (secondary)", "write", Verdict.MISSING, "AccessDenied"),
    (no_dns, "dns", "connection", Verdict.MISSING, "no login"),
    (record(record=None, error="it does not answer"), "dns", f"record {NAME}", Verdict.MISSING, "does not answer"),
    (record(right_error="dns1: REFUSED"), "dns", f"update {NAME}", Verdict.MISSING, "REFUSED"),
    (answer_of_a_cache, "dns", "answer of 9.9.9.9:53", Verdict.WARNING, "198.51.100.13 for 12 s more"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "host", "check", "verdict", "found"), BROKEN)
def test_what_a_recovery_would_miss_is_one_finding(
    change: Change, host: str, check: str, verdict: Verdict, found: str
) -> None:
    reading = healthy()
    change(reading)
    [finding] = broken(reading)
    assert (finding.host, finding.check, finding.verdict) == (host, check, verdict)
    assert found in finding.found
    assert finding.needed, "nobody is told what is needed"


def test_a_standby_far_behind_is_shown_with_what_would_be_lost() -> None:
    reading = healthy()
    lsn = LAG_BYTES + 5001
    reading.sites[0].primaries["db1"] = database_state("db1", in_recovery=False, lsn=5000 + lsn)
    [finding] = broken(reading)
    assert finding.verdict is Verdict.WARNING
    assert f"{lsn} B behind" in finding.found


def test_a_record_that_leads_elsewhere_is_found() -> None:
    reading = healthy()
    elsewhere = RecordSet(NAME, ("198.51.100.13",), 300)
    answers = {"192.0.2.53:53": Answer(elsewhere.values, 100)}
    reading.dns = DnsReading(records={NAME: DnsRecordReading(elsewhere, answers=answers)})
    [finding] = broken(reading)
    assert (finding.check, finding.verdict) == (f"record {NAME}", Verdict.MISSING)
    assert "192.0.2.11, 192.0.2.12: the load balancers of site primary" in finding.needed


def test_a_long_ttl_is_a_warning() -> None:
    reading = healthy()
    record(record=RecordSet(NAME, ("192.0.2.11", "192.0.2.12"), 3600))(reading)
    [finding] = broken(reading)
    assert finding.verdict is Verdict.WARNING
    assert "300 s (dns.ttl_seconds)" in finding.needed


def test_hosts_of_the_waiting_site_are_checked_as_that_sites() -> None:
    reading = healthy()
    by_host = {finding.host for finding in report(reading).findings}
    assert {"lb3", "app4", "db3", "dbendpoint2", "cache2"} <= by_host
    # Its load balancer has its own application host as a server, and not the primary site's.
    servers: list[Finding] = [each for each in report(reading).of_host("lb3") if each.check == "backend bk_blue"]
    assert [each.found for each in servers] == ["app4 DOWN"]
    # Nothing runs there, and nothing has to.
    assert not [each for each in report(reading).of_host("app4") if each.verdict is not Verdict.OK]


def test_a_standby_of_another_site_need_not_hold_back_the_primarys_clean_up() -> None:
    reading = healthy()
    backups = reading.sites[0].backups["db3"]
    backups.parts["settings"] = backups.parts["settings"].replace(
        "hot_standby_feedback\ton", "hot_standby_feedback\toff"
    )
    assert not broken(reading)


def test_an_environment_with_one_site_and_without_dns_has_none_of_these_checks() -> None:
    reading, environment = healthy(), production()
    reading.sites, reading.dns = [], None
    reading.tls = [each for each in reading.tls if each.host != "lb3"]
    hosts = tuple(host for host in environment.hosts if host.site == "primary")
    alone = environment.model_copy(update={"hosts": hosts, "sites": environment.sites[:1], "dns": None})
    assert not broken(reading, alone)
    assert not [each for each in report(reading, alone).findings if each.host.startswith(("site", "dns"))]
