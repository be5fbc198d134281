"""Records in Route 53: the provider's connection against moto, which keeps hosted zones as Amazon does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from sebenza_ops.environments.models import Dns
from sebenza_ops.systems.dns import DnsZone, change, zone_of
from sebenza_ops.systems.dns_records import (
    DnsAuthenticationError,
    DnsChangedError,
    DnsError,
    DnsUnreachableError,
    DnsUpdateRefusedError,
    RecordSet,
)
from sebenza_ops.systems.dns_route53 import _errors
from sebenza_ops.systems.errors import NoDataError

ZONE = "sebenza.net"
NAME = f"app.{ZONE}"
FIRST = ("192.0.2.11", "192.0.2.12")
SECOND = ("198.51.100.13",)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[DnsZone]:
    """A hosted zone with a record, and the connection that leads to it."""
    document = {
        "conn_type": "aws",
        "login": "AKIATEST",
        "password": "secret",
        "extra": {"region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_ROUTE53_TEST", json.dumps(document))
    with mock_aws():
        client = boto3.client("route53", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
        created = client.create_hosted_zone(Name=ZONE, CallerReference="test")
        hosted_zone_id = created["HostedZone"]["Id"].rpartition("/")[2]
        put(client, hosted_zone_id, {"TTL": 300, "ResourceRecords": [{"Value": value} for value in FIRST]})
        yield zone_of(
            Dns.model_validate(
                {
                    "backend": "route53",
                    "conn_id": "route53_test",
                    "zone": ZONE,
                    "names": (NAME,),
                    "servers": ("127.0.0.1:53",),
                    "resolvers": ("127.0.0.1:53",),
                    "hosted_zone_id": hosted_zone_id,
                }
            )
        )


def put(client: Any, hosted_zone_id: str, record: dict[str, Any], name: str = NAME) -> None:
    row = {"Name": name, "Type": "A", **record}
    batch = {"Changes": [{"Action": "UPSERT", "ResourceRecordSet": row}]}
    client.change_resource_record_sets(HostedZoneId=hosted_zone_id, ChangeBatch=batch)


def test_a_record_is_switched_and_put_back(zone: DnsZone) -> None:
    old, new = change(zone, NAME, values=SECOND, ttl_seconds=30, expected=FIRST)
    assert (old, new) == (RecordSet(NAME, FIRST, 300), RecordSet(NAME, SECOND, 30))
    assert zone.read(NAME) == new
    assert change(zone, NAME, values=SECOND, ttl_seconds=30, expected=FIRST) == (new, new), "repeating it is harmless"
    change(zone, NAME, values=old.values, ttl_seconds=old.ttl_seconds, expected=SECOND)
    assert zone.read(NAME) == old


def test_a_change_that_somebody_else_was_faster_than_is_refused(zone: DnsZone) -> None:
    before = zone.read(NAME)
    change(zone, NAME, values=("192.0.2.77",))
    with pytest.raises(DnsChangedError, match="somebody has changed it"):
        zone.replace(before, RecordSet(NAME, SECOND, 30))
    assert zone.read(NAME).values == ("192.0.2.77",)


def test_amazon_is_told_what_the_change_replaces(zone: DnsZone) -> None:
    sent: list[Any] = []
    events = zone._client.meta.events  # type: ignore[attr-defined]
    events.register("before-parameter-build.route53.ChangeResourceRecordSets", lambda params, **_: sent.append(params))
    change(zone, NAME, values=SECOND)
    deleted, created = sent[0]["ChangeBatch"]["Changes"]
    assert (deleted["Action"], created["Action"]) == ("DELETE", "CREATE"), "an UPSERT would replace whatever is there"
    assert [row["Value"] for row in deleted["ResourceRecordSet"]["ResourceRecords"]] == list(FIRST)
    assert deleted["ResourceRecordSet"]["TTL"] == 300


def test_the_right_is_checked_without_a_change(zone: DnsZone) -> None:
    before = zone.read(NAME)
    zone.check_right(NAME)
    assert zone.read(NAME) == before


def test_what_is_no_plain_record_is_not_touched(zone: DnsZone) -> None:
    with pytest.raises(NoDataError, match="no record of type A"):
        zone.read(f"nothing.{ZONE}")
    client = boto3.client("route53", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    target = {"HostedZoneId": "Z35SXDOTRQ7X7K", "DNSName": "lb.example.com", "EvaluateTargetHealth": False}
    put(client, str(zone.dns.hosted_zone_id), {"AliasTarget": target}, name=f"alias.{ZONE}")
    with pytest.raises(NoDataError, match="alias"):
        zone.read(f"alias.{ZONE}")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("AccessDenied", DnsUpdateRefusedError),
        ("NoSuchHostedZone", DnsUpdateRefusedError),
        ("SignatureDoesNotMatch", DnsAuthenticationError),
        ("InvalidClientTokenId", DnsAuthenticationError),
        ("InvalidChangeBatch", DnsChangedError),
        ("Throttling", DnsUnreachableError),
        ("PriorRequestNotComplete", DnsUnreachableError),
    ],
)
def test_amazons_errors_say_what_to_do(code: str, expected: type[DnsError]) -> None:
    answer: Any = {"Error": {"Code": code, "Message": "as Amazon words it"}}
    with pytest.raises(DnsError, match=f"setting it: {code}") as caught, _errors("setting it"):
        raise ClientError(answer, "ChangeResourceRecordSets")
    assert type(caught.value) is expected


def test_a_hosted_zone_that_is_not_there(zone: DnsZone) -> None:
    gone = zone_of(zone.dns.model_copy(update={"hosted_zone_id": "Z0000000000"}))
    with pytest.raises(DnsUpdateRefusedError, match="NoSuchHostedZone"):
        gone.read(NAME)
