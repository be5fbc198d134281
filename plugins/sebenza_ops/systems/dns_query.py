"""Asking a DNS server, whichever it is, what it answers for a name."""

from __future__ import annotations

import socket
from functools import cache

from sebenza_ops.systems.dns_records import Answer

#: As resolvers themselves wait before they try again (RFC 1035, 4.2.1: the best interval is 2 to 5 s).
TIMEOUT_SECONDS = 2.0


def ask(server: str, name: str, *, authoritative: bool = False) -> Answer:
    """What a server (host:port) answers for a name's addresses. What goes wrong is in the answer, never raised.

    Args:
        server: Whom to ask.
        name: What for.
        authoritative: Whether only an answer counts that the server is the authority of (AA).
    """
    import dns.exception
    import dns.flags
    import dns.message
    import dns.query
    import dns.rcode
    import dns.rdatatype

    query = dns.message.make_query(f"{name}.", dns.rdatatype.A)
    try:
        address, port = numeric(server)
        answer, _ = dns.query.udp_with_fallback(query, address, timeout=TIMEOUT_SECONDS, port=port)
    except dns.exception.Timeout:
        return Answer(error=f"no answer within {TIMEOUT_SECONDS:g} s", silent=True)
    except OSError as error:
        return Answer(error=str(error), silent=True)
    except dns.exception.DNSException as error:
        return Answer(error=str(error) or type(error).__name__)
    if answer.rcode() != dns.rcode.NOERROR:
        return Answer(error=dns.rcode.to_text(answer.rcode()))
    if authoritative and not answer.flags & dns.flags.AA:
        return Answer(error="it is no authority of the zone")
    rows = [rrset for rrset in answer.answer if rrset.rdtype == dns.rdatatype.A]
    values = tuple(sorted(str(item) for rrset in rows for item in rrset))
    if not values:
        return Answer(error="the name has no address")
    return Answer(values, min(rrset.ttl for rrset in rows))


@cache
def numeric(endpoint: str) -> tuple[str, int]:
    """The IPv4 address and the port of host:port. Raises OSError for a name that can't be resolved."""
    host, _, port = endpoint.rpartition(":")
    found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_DGRAM)
    return str(found[0][4][0]), int(port)
