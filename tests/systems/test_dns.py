"""Records of a zone, at real name servers: read, changed only while they are what was read, proven everywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from airflow.sdk.exceptions import AirflowNotFoundException

from lab.waiting import scaled
from sebenza_ops.systems.dns import DnsZone, answers, await_answers, change, zone_of
from sebenza_ops.systems.dns_query import ask
from sebenza_ops.systems.dns_records import (
    DnsAuthenticationError,
    DnsChangedError,
    DnsUnreachableError,
    DnsUpdateRefusedError,
    NotPropagatedError,
    RecordSet,
)
from sebenza_ops.systems.errors import NoDataError
from tests.systems.nameservers import (
    FIRST,
    KEY,
    KEY_WITHOUT_RIGHTS,
    NAME,
    OTHER_NAME,
    TTL_SECONDS,
    ZONE,
    NameServers,
    name_servers,
)
from tests.systems.processes import LOOPBACK, free_port, until

pytestmark = pytest.mark.integration

SECOND = ("198.51.100.13",)


@pytest.fixture(scope="module")
def running() -> Iterator[NameServers]:
    with name_servers() as servers:
        yield servers


@pytest.fixture
def servers(running: NameServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    """The servers with the zone as it starts out, and the connection of the key that may change it."""
    connect(running, monkeypatch, KEY, running.keys[KEY])
    yield running
    connect(running, monkeypatch, KEY, running.keys[KEY])
    change(zone_of(running.dns()), NAME, values=FIRST, ttl_seconds=TTL_SECONDS)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits long for a server that is gone."""
    monkeypatch.setattr("sebenza_ops.systems.dns_query.TIMEOUT_SECONDS", scaled(0.4))


@pytest.fixture
def zone(servers: NameServers) -> DnsZone:
    return zone_of(servers.dns())


def connect(
    servers: NameServers, monkeypatch: pytest.MonkeyPatch, login: str, password: str, port: int | None = None
) -> None:
    document = {
        "conn_type": "generic",
        "host": LOOPBACK,
        "port": port or servers.primary_port,
        "login": login,
        "password": password,
    }
    monkeypatch.setenv("AIRFLOW_CONN_DNS_TEST", json.dumps(document))


def test_a_record_is_switched_and_everybody_answers_it(servers: NameServers, zone: DnsZone) -> None:
    dns = servers.dns()
    assert await_answers(dns, NAME, FIRST).values == FIRST, "the resolver has the old value in its cache now"
    old, new = change(zone, NAME, values=SECOND, ttl_seconds=1, expected=FIRST)
    assert (old, new) == (RecordSet(NAME, FIRST, TTL_SECONDS), RecordSet(NAME, SECOND, 1))
    told: list[str] = []
    seen = await_answers(dns, NAME, SECOND, tell=told.append)
    assert set(seen.seconds) == {*dns.servers, *dns.resolvers}
    assert told, "nobody was told that the cache still answers the old value"
    assert dns.resolvers[0] in told[0]
    assert FIRST[0] in told[0]
    # Back, as a recovery that failed would.
    change(zone, NAME, values=old.values, ttl_seconds=old.ttl_seconds, expected=SECOND)
    assert await_answers(dns, NAME, FIRST).values == FIRST


def test_the_ttl_is_lowered_ahead_and_the_values_stay(zone: DnsZone) -> None:
    old, new = change(zone, NAME, ttl_seconds=1)
    assert (old.ttl_seconds, new.ttl_seconds) == (TTL_SECONDS, 1)
    assert zone.read(NAME) == RecordSet(NAME, FIRST, 1)


def test_a_change_can_be_repeated(zone: DnsZone) -> None:
    change(zone, NAME, values=SECOND, expected=FIRST)
    old, new = change(zone, NAME, values=SECOND, expected=FIRST)
    assert old == new == RecordSet(NAME, SECOND, TTL_SECONDS)


def test_a_change_that_was_planned_for_something_else_is_refused(zone: DnsZone) -> None:
    change(zone, NAME, values=("192.0.2.77",))
    with pytest.raises(DnsChangedError, match=r"leads to 192\.0\.2\.77 and not to 192\.0\.2\.11, 192\.0\.2\.12"):
        change(zone, NAME, values=SECOND, expected=FIRST)
    assert zone.read(NAME).values == ("192.0.2.77",)


def test_the_server_itself_refuses_a_change_that_somebody_else_was_faster_than(zone: DnsZone) -> None:
    read_before = zone.read(NAME)
    change(zone, NAME, values=("192.0.2.78",))
    with pytest.raises(DnsChangedError, match="somebody has changed it"):
        zone.replace(read_before, RecordSet(NAME, SECOND, 1))
    # One address more than was read is a change, too.
    change(zone, NAME, values=(*FIRST, "192.0.2.79"))
    with pytest.raises(DnsChangedError):
        zone.replace(read_before, RecordSet(NAME, SECOND, 1))
    assert zone.read(NAME).values == (*FIRST, "192.0.2.79")


def test_the_right_is_checked_without_a_change(servers: NameServers, zone: DnsZone) -> None:
    before = zone.read(NAME)
    serial = (servers.directory / "primary/zone").read_text()
    zone.check_right(NAME)
    assert zone.read(NAME) == before
    assert (servers.directory / "primary/zone").read_text() == serial, "the zone was written"


def test_a_key_without_rights_changes_nothing(servers: NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(servers, monkeypatch, KEY_WITHOUT_RIGHTS, servers.keys[KEY_WITHOUT_RIGHTS])
    zone = zone_of(servers.dns())
    with pytest.raises(DnsAuthenticationError, match="may not change this name"):
        zone.check_right(NAME)
    with pytest.raises(DnsAuthenticationError, match="Nothing was changed"):
        change(zone, NAME, values=SECOND)
    assert zone.read(NAME).values == FIRST


def test_a_name_that_the_key_may_not_change_stays(zone: DnsZone) -> None:
    before = zone.read(OTHER_NAME)
    with pytest.raises(DnsAuthenticationError, match="may not change this name"):
        zone.check_right(OTHER_NAME)
    with pytest.raises(DnsAuthenticationError):
        change(zone, OTHER_NAME, values=SECOND)
    assert zone.read(OTHER_NAME) == before


def takes_updates(zone: DnsZone) -> bool:
    try:
        zone.check_right(NAME)
    except DnsUpdateRefusedError:
        return False
    return True


def test_a_server_that_refuses_updates(servers: NameServers, zone: DnsZone) -> None:
    servers.control("zone-freeze", ZONE)
    # knotc only asks for it.
    until(lambda: not takes_updates(zone), "the zone is frozen")
    try:
        with pytest.raises(DnsUpdateRefusedError, match=r"REFUSED.*Nothing was changed"):
            zone.check_right(NAME)
        with pytest.raises(DnsUpdateRefusedError, match="REFUSED"):
            change(zone, NAME, values=SECOND)
    finally:
        servers.control("zone-thaw", ZONE)
        until(lambda: takes_updates(zone), "the zone is thawed")
    assert zone.read(NAME).values == FIRST
    zone.check_right(NAME)


def test_a_wrong_secret_is_told_apart(servers: NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(servers, monkeypatch, KEY, base64.b64encode(b"another secret").decode())
    zone = zone_of(servers.dns())
    with pytest.raises(DnsAuthenticationError, match="key's name, its secret"):
        change(zone, NAME, values=SECOND)
    connect(servers, monkeypatch, "nobody", servers.keys[KEY])
    with pytest.raises(DnsAuthenticationError):
        zone_of(servers.dns()).check_right(NAME)
    assert zone.read(NAME).values == FIRST


def test_a_connection_without_a_usable_key(servers: NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(servers, monkeypatch, KEY, "no base64!")
    with pytest.raises(DnsAuthenticationError, match="no key in base64"):
        zone_of(servers.dns())
    connect(servers, monkeypatch, "", servers.keys[KEY])
    with pytest.raises(DnsAuthenticationError, match="no login"):
        zone_of(servers.dns())
    with pytest.raises(AirflowNotFoundException):
        zone_of(servers.dns(conn_id="nowhere"))


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_gone(servers: NameServers, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(servers, monkeypatch, KEY, servers.keys[KEY], port=free_port())
    zone = zone_of(servers.dns())
    with pytest.raises(DnsUnreachableError):
        zone.read(NAME)
    with pytest.raises(DnsUnreachableError):
        zone.replace(RecordSet(NAME, FIRST, TTL_SECONDS), RecordSet(NAME, SECOND, 1))


def test_a_name_that_is_not_there(zone: DnsZone) -> None:
    with pytest.raises(NoDataError, match="has no record of type A"):
        zone.read(f"nothing.{ZONE}")


@pytest.mark.usefixtures("impatient")
def test_who_does_not_follow_is_named(servers: NameServers, zone: DnsZone) -> None:
    gone = f"{LOOPBACK}:{free_port()}"
    dns = servers.dns(resolvers=(f"{LOOPBACK}:{servers.resolver_port}", gone))
    with pytest.raises(NotPropagatedError) as caught:
        await_answers(dns, NAME, FIRST, timeout_seconds=0.5)
    assert gone in str(caught.value)
    assert f"{LOOPBACK}:{servers.primary_port} answers" not in str(caught.value), "who does answer it is named as well"
    assert "The change stands" in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_servers_that_are_gone_with_a_site_hold_nobody_up_who_says_so(servers: NameServers) -> None:
    gone, working = f"{LOOPBACK}:{free_port()}", servers.dns()
    dns = servers.dns(servers=(*working.servers, gone), resolvers=(gone, *working.resolvers))
    seen = await_answers(dns, NAME, FIRST, silent_is_gone=True)
    assert seen.silent == (gone,)
    assert set(seen.seconds) == {*working.servers, *working.resolvers}
    nobody = servers.dns(resolvers=(gone,))
    with pytest.raises(NotPropagatedError, match="no answer within"):
        await_answers(nobody, NAME, FIRST, timeout_seconds=0.5, silent_is_gone=True)


def test_a_resolver_is_no_authority(servers: NameServers) -> None:
    resolver = f"{LOOPBACK}:{servers.resolver_port}"
    assert ask(resolver, NAME).values == FIRST
    assert ask(resolver, NAME, authoritative=True).error == "it is no authority of the zone"
    dns = servers.dns()
    assert set(answers(dns, NAME)) == {*dns.servers, *dns.resolvers}
