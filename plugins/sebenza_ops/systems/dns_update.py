"""Dynamic updates of a zone (RFC 2136), signed with TSIG (RFC 8945), guarded by prerequisites (RFC 2136, 2.4)."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from sebenza_ops.environments.models import Dns
from sebenza_ops.systems.dns import DnsZone
from sebenza_ops.systems.dns_query import ask, numeric
from sebenza_ops.systems.dns_records import (
    DnsAuthenticationError,
    DnsChangedError,
    DnsUnreachableError,
    DnsUpdateRefusedError,
    RecordSet,
)
from sebenza_ops.systems.errors import NoDataError

if TYPE_CHECKING:
    from dns.update import UpdateMessage

#: An update is on the server's disk before it is answered.
UPDATE_TIMEOUT_SECONDS = 10.0
# Never the address of a host (RFC 1122, 3.2.1.3): to take it away changes nothing.
_NOBODY = "0.0.0.0"


class UpdatedZone(DnsZone):
    """A zone whose server takes dynamic updates.

    Args:
        dns: The inventory's `dns`. Its connection holds the server (host and port; else the first of `servers`) and
            the key (login and password).

    Raises AirflowNotFoundException, and DnsAuthenticationError for a connection that holds no usable key.
    """

    def __init__(self, dns: Dns) -> None:
        from airflow.sdk import BaseHook
        from dns.name import from_text
        from dns.tsig import Key

        super().__init__(dns)
        connection = BaseHook.get_connection(dns.conn_id)
        self._server = f"{connection.host}:{connection.port or 53}" if connection.host else dns.servers[0]
        if not connection.login or not connection.password:
            raise self._unauthenticated(f"the connection {dns.conn_id} has no login (the key's name) or no password")
        self._key_name = from_text(connection.login)
        try:
            secret = base64.b64decode(connection.password, validate=True)
            self._keyring = {self._key_name: Key(self._key_name, secret, dns.tsig_algorithm)}
        except (binascii.Error, ValueError) as error:
            raise self._unauthenticated(f"the password of {dns.conn_id} is no key in base64") from error

    def read(self, name: str) -> RecordSet:
        """The record at the server that takes updates."""
        answer = ask(self._server, name, authoritative=True)
        if answer.values:
            return RecordSet(name, answer.values, answer.ttl_seconds)
        if answer.error in {"the name has no address", "NXDOMAIN"}:
            raise NoDataError(
                f"{name} has no record of type A in the zone: nothing leads users to a site. Make it by hand once.",
                host=self._server,
            )
        raise DnsUnreachableError(f"what {name} is can't be read: {answer.error}", host=self._server)

    def replace(self, old: RecordSet, new: RecordSet) -> None:
        """One update: while all values of `old` and no others are there, all go, and those of `new` come."""
        update = self._update()
        update.present(f"{old.name}.", "A", *old.values)
        update.replace(f"{new.name}.", new.ttl_seconds, "A", *new.values)
        self._send(update, f"{new.name} to {', '.join(new.values)}, TTL {new.ttl_seconds} s")

    def check_right(self, name: str) -> None:
        """Take an address away that the record does not have."""
        update = self._update()
        update.present(f"{name}.", "A")
        update.delete(f"{name}.", "A", _NOBODY)
        self._send(update, f"{name} to what it is (a check, which changes nothing)")

    def _update(self) -> UpdateMessage:
        from dns.update import UpdateMessage

        return UpdateMessage(
            f"{self.dns.zone}.",
            keyring=self._keyring,
            keyname=self._key_name,
            keyalgorithm=self.dns.tsig_algorithm,
        )

    def _send(self, update: UpdateMessage, what: str) -> None:
        from dns import rcode
        from dns.exception import DNSException, Timeout
        from dns.query import tcp
        from dns.tsig import BadSignature, PeerError

        try:
            address, port = numeric(self._server)
            code = tcp(update, address, timeout=UPDATE_TIMEOUT_SECONDS, port=port).rcode()
        except (PeerError, BadSignature) as error:
            raise self._unauthenticated(f"setting {what}: {error}") from error
        except Timeout as error:
            limit = f"no answer within {UPDATE_TIMEOUT_SECONDS:g} s"
            raise DnsUnreachableError(
                f"setting {what}: {limit}. It may have been done: read it, and repeat.", host=self._server
            ) from error
        except (OSError, DNSException) as error:
            raise DnsUnreachableError(f"setting {what}: {error}", host=self._server) from error
        if code == rcode.NOERROR:
            return
        text = rcode.to_text(code)
        # RFC 2136, 2.2: what a prerequisite that is not met is answered with.
        if code in {rcode.NXRRSET, rcode.YXRRSET, rcode.NXDOMAIN, rcode.YXDOMAIN}:
            raise DnsChangedError(
                f"setting {what}: the record is not what it was when this was planned ({text}): somebody has changed "
                "it. Nothing was changed; look who, then begin anew.",
                host=self._server,
            )
        # NOTAUTH here is about the zone (RFC 2136, 3.1.1); of the key it comes with TSIG's error, raised above.
        raise DnsUpdateRefusedError(
            f"setting {what}: {text}. This server takes no such update of the zone {self.dns.zone} from the key "
            f"{self._key_name}. Nothing was changed; it must be the zone's primary server, and its policy must let the "
            "key change addresses (type A) of this name.",
            host=self._server,
        )

    def _unauthenticated(self, message: str) -> DnsAuthenticationError:
        return DnsAuthenticationError(
            f"{message}. Nothing was changed. The key's name, its secret, the algorithm ({self.dns.tsig_algorithm}) "
            "and both clocks (to 5 minutes) must be the server's; Knot DNS says the same of a key that it knows and "
            "that may not change this name.",
            host=self._server,
        )
