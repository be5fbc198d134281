"""Amazon's Route 53, through the amazon provider's connection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sebenza_ops.environments.models import Dns
from sebenza_ops.systems.dns import DnsZone
from sebenza_ops.systems.dns_records import (
    DnsAuthenticationError,
    DnsChangedError,
    DnsError,
    DnsUnreachableError,
    DnsUpdateRefusedError,
    RecordSet,
)
from sebenza_ops.systems.errors import NoDataError

_HOST = "route53"
CONNECT_TIMEOUT_SECONDS = 5
ATTEMPTS = 3

# https://docs.aws.amazon.com/IAM/latest/APIReference/CommonErrors.html
_UNAUTHENTICATED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_REFUSED = {"AccessDenied", "AccessDeniedException", "NoSuchHostedZone", "NotAuthorized", "OptInRequired"}


class Route53Zone(DnsZone):
    """A hosted zone.

    Args:
        dns: The inventory's `dns`; its connection is of type aws.
    """

    def __init__(self, dns: Dns) -> None:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        from botocore.config import Config

        super().__init__(dns)
        config = Config(connect_timeout=CONNECT_TIMEOUT_SECONDS, retries={"total_max_attempts": ATTEMPTS})
        hook = AwsBaseHook(aws_conn_id=dns.conn_id, client_type="route53", config=config)
        with _errors("logging in"):
            self._client: Any = hook.get_conn()

    def read(self, name: str) -> RecordSet:
        """The record in the hosted zone."""
        with _errors(f"reading {name}"):
            answer = self._client.list_resource_record_sets(
                HostedZoneId=self.dns.hosted_zone_id, StartRecordName=name, StartRecordType="A", MaxItems="1"
            )
        for row in answer["ResourceRecordSets"]:
            if row["Name"].rstrip(".") == name and row["Type"] == "A":
                return _record(name, row)
        raise NoDataError(
            f"{name} has no record of type A in the zone: nothing leads users to a site. Make it by hand once.",
            host=_HOST,
        )

    def replace(self, old: RecordSet, new: RecordSet) -> None:
        """One batch: Route 53 deletes nothing but what is there in every value and in its TTL."""
        found = self.read(old.name)
        if found != old:
            raise DnsChangedError(
                f"{old.name} is {', '.join(found.values)}, TTL {found.ttl_seconds} s, and not {', '.join(old.values)}, "
                f"TTL {old.ttl_seconds} s, as when this was planned: somebody has changed it. Nothing was changed.",
                host=_HOST,
            )
        changes = [
            {"Action": "DELETE", "ResourceRecordSet": _row(old)},
            {"Action": "CREATE", "ResourceRecordSet": _row(new)},
        ]
        with _errors(f"setting {new.name} to {', '.join(new.values)}, TTL {new.ttl_seconds} s"):
            self._client.change_resource_record_sets(
                HostedZoneId=self.dns.hosted_zone_id,
                ChangeBatch={"Comment": "Sebenza Ops", "Changes": changes},
            )

    def check_right(self, name: str) -> None:
        """Replace the record by itself."""
        record = self.read(name)
        self.replace(record, record)


def _record(name: str, row: dict[str, Any]) -> RecordSet:
    if "ResourceRecords" not in row or "SetIdentifier" in row:
        raise NoDataError(
            f"{name} is an alias or has a routing policy: only a plain record of type A is moved. Change it by hand.",
            host=_HOST,
        )
    return RecordSet(name, tuple(sorted(value["Value"] for value in row["ResourceRecords"])), int(row["TTL"]))


def _row(record: RecordSet) -> dict[str, Any]:
    return {
        "Name": f"{record.name}.",
        "Type": "A",
        "TTL": record.ttl_seconds,
        "ResourceRecords": [{"Value": value} for value in record.values],
    }


@contextmanager
def _errors(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        raise _translated(what, dict(error.response.get("Error", {}))) from error
    except NoCredentialsError as error:
        raise DnsAuthenticationError(
            f"{what}: the connection holds no keys. Nothing was changed.", host=_HOST
        ) from error
    except BotoCoreError as error:
        raise DnsUnreachableError(
            f"{what}: {error}. It may have been done: read it, and repeat.", host=_HOST
        ) from error


def _translated(what: str, error: dict[str, Any]) -> DnsError:
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    said = f"{what}: {code} ({message[:300]})"
    if code == "InvalidChangeBatch":
        return DnsChangedError(
            f"{said}: the record is not what it was when this was planned: somebody has changed it. Nothing was "
            "changed; look who, then begin anew.",
            host=_HOST,
        )
    if code in _UNAUTHENTICATED:
        return DnsAuthenticationError(f"{said}. Nothing was changed; mend the connection's keys.", host=_HOST)
    if code in _REFUSED:
        return DnsUpdateRefusedError(
            f"{said}. Nothing was changed; the keys need route53:ListResourceRecordSets and "
            "route53:ChangeResourceRecordSets for this hosted zone.",
            host=_HOST,
        )
    return DnsUnreachableError(f"{said}. It may have been done: read it, and repeat.", host=_HOST)
