"""Leading users by DNS at real name servers: refused, changed by somebody else, repeated, with one server gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import Holder, Ledger
from sebenza_ops.recovery import disaster_dns
from sebenza_ops.recovery.disaster_dns import lead_users, restore_ttl
from sebenza_ops.recovery.disaster_plan import DisasterRefusedError
from sebenza_ops.recovery.disaster_record import progress_of, start_record
from sebenza_ops.systems.dns import change, zone_of
from sebenza_ops.systems.dns_records import DnsAuthenticationError
from tests.systems.estates import changed
from tests.systems.nameservers import FIRST, KEY, KEY_WITHOUT_RIGHTS, NAME, TTL_SECONDS, NameServers, name_servers
from tests.systems.processes import LOOPBACK, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECOND = ("198.51.100.13",)


@pytest.fixture(scope="module")
def running() -> Iterator[NameServers]:
    with name_servers() as servers:
        yield servers


@pytest.fixture
def servers(running: NameServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    connect(running, monkeypatch, KEY)
    yield running
    connect(running, monkeypatch, KEY)
    change(zone_of(running.dns()), NAME, values=FIRST, ttl_seconds=TTL_SECONDS)


def connect(servers: NameServers, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    document = {"conn_type": "generic", "host": LOOPBACK, "port": servers.primary_port, "login": key}
    monkeypatch.setenv("AIRFLOW_CONN_DNS_TEST", json.dumps(document | {"password": servers.keys[key]}))


@pytest.fixture
def run(servers: NameServers, tmp_path: Path) -> ChangeRun:
    ledger = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    ledger.migrate()
    environment = changed("production").model_copy(update={"dns": servers.dns()})
    first, second = (
        environment.site(name).model_copy(update={"public_addresses": values})
        for name, values in (("primary", FIRST), ("secondary", SECOND))
    )
    environment = environment.model_copy(update={"sites": (first, second)})
    run = ChangeRun(ledger, environment, Holder("disaster_recovery.production", "manual__1", "thandi"))
    start_record(run, "disaster recovery")
    return run


def test_users_are_led_once_however_often_it_is_repeated(run: ChangeRun, servers: NameServers) -> None:
    assert "answered after" in lead_users(run, "primary", "secondary")
    served_at = progress_of(run)["served_at"]
    # Tried again by another attempt: the record stays, and so does the moment at which users were served.
    lead_users(run, "primary", "secondary")
    assert progress_of(run)["served_at"] == served_at
    found = zone_of(servers.dns()).read(NAME)
    assert (found.values, found.ttl_seconds) == (SECOND, 1)
    restore_ttl(run, "secondary")
    assert zone_of(servers.dns()).read(NAME).ttl_seconds == TTL_SECONDS


def test_a_server_that_refuses_the_update_leaves_users_where_they_are(
    run: ChangeRun, servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(servers, monkeypatch, KEY_WITHOUT_RIGHTS)
    with pytest.raises(DnsAuthenticationError):
        lead_users(run, "primary", "secondary")
    assert "served_at" not in progress_of(run)
    assert zone_of(servers.dns()).read(NAME).values == FIRST
    # The right is given, and the task cleared: it goes on.
    connect(servers, monkeypatch, KEY)
    lead_users(run, "primary", "secondary")
    assert zone_of(servers.dns()).read(NAME).values == SECOND


def test_a_record_that_somebody_else_has_changed_is_left_as_it_is(run: ChangeRun, servers: NameServers) -> None:
    change(zone_of(servers.dns()), NAME, values=("192.0.2.77",))
    with pytest.raises(DisasterRefusedError, match=r"leads to 192\.0\.2\.77"):
        lead_users(run, "primary", "secondary")
    assert zone_of(servers.dns()).read(NAME).values == ("192.0.2.77",)
    assert "served_at" not in progress_of(run)


def test_a_server_that_is_gone_with_its_site_is_not_waited_for(
    run: ChangeRun, servers: NameServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disaster_dns, "SILENT_SECONDS", 1.0)
    known = servers.dns()
    gone = f"{LOOPBACK}:{free_port()}"
    dns = known.model_copy(update={"servers": (*known.servers, gone)})
    run.environment = run.environment.model_copy(update={"dns": dns})
    lead_users(run, "primary", "secondary")
    assert progress_of(run)["served_at"]
