"""The DNS records that lead users to a site: read, changed only while they are what was read, and proven everywhere.

Two backends have one interface: dynamic updates (dns_update.py) and Route 53 (dns_route53.py). A change says what it
replaces, and the server itself refuses it when somebody else was faster; that is what a fencing token is elsewhere.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sebenza_ops.environments.models import Dns
from sebenza_ops.systems.dns_query import ask
from sebenza_ops.systems.dns_records import Answer, DnsChangedError, DnsError, NotPropagatedError, RecordSet

__all__ = [
    "Answer",
    "DnsChangedError",
    "DnsError",
    "DnsZone",
    "NotPropagatedError",
    "Propagation",
    "RecordSet",
    "answers",
    "await_answers",
    "change",
    "zone_of",
]

POLL_SECONDS = 0.5


class DnsZone(ABC):
    """The zone of an environment, where its records are kept.

    Args:
        dns: The inventory's `dns`.

    Every method may raise DnsUnreachableError, DnsAuthenticationError and DnsUpdateRefusedError, which say that
    nothing was changed, or that the outcome is unknown and the change can be repeated.
    """

    def __init__(self, dns: Dns) -> None:
        self.dns = dns

    @abstractmethod
    def read(self, name: str) -> RecordSet:
        """The record as the zone has it now, with its TTL. Raises NoDataError when there is none."""

    @abstractmethod
    def replace(self, old: RecordSet, new: RecordSet) -> None:
        """Put `new` in the place of `old`, at once, and only while the zone still has the values of `old`.

        Raises DnsChangedError when it has not; nothing was changed then.
        """

    @abstractmethod
    def check_right(self, name: str) -> None:
        """Make a change of the record that changes nothing: whether the real one would be let through."""


@dataclass(frozen=True)
class Propagation:
    """A change that everybody has seen: after how many seconds each server and resolver answered it.

    `silent` are those that answer nobody, where that was allowed.
    """

    name: str
    values: tuple[str, ...]
    seconds: Mapping[str, float]
    silent: tuple[str, ...] = ()

    @property
    def slowest_seconds(self) -> float:
        """When the last one had seen it."""
        return max(self.seconds.values(), default=0.0)


def zone_of(dns: Dns) -> DnsZone:
    """The zone by its backend.

    Raises AirflowNotFoundException without its connection, DnsAuthenticationError with one that holds no usable key.
    """
    if dns.backend == "route53":
        from sebenza_ops.systems.dns_route53 import Route53Zone

        return Route53Zone(dns)
    from sebenza_ops.systems.dns_update import UpdatedZone

    return UpdatedZone(dns)


def change(
    zone: DnsZone,
    name: str,
    *,
    values: Sequence[str] | None = None,
    ttl_seconds: int | None = None,
    expected: Sequence[str] | None = None,
) -> tuple[RecordSet, RecordSet]:
    """Change a record's values, its TTL, or both. Repeating it is harmless.

    Args:
        zone: Where the record is kept.
        name: The record.
        values: Its new values; as they are by default. With `expected`, they may be there already.
        ttl_seconds: Its new TTL; as it is by default.
        expected: What it must have now, so that an old run does not undo a later change. Anything by default.

    Returns what was there before, and what is there now. Caches may answer the former for its TTL from now on.
    Raises DnsChangedError when it has neither `expected` nor `values`, or was changed at this very moment.
    """
    old = zone.read(name)
    new = replace(
        old,
        values=tuple(sorted(values)) if values is not None else old.values,
        ttl_seconds=ttl_seconds if ttl_seconds is not None else old.ttl_seconds,
    )
    if expected is not None and old.values not in {tuple(sorted(expected)), new.values}:
        raise DnsChangedError(
            f"{name} leads to {', '.join(old.values)} and not to {', '.join(sorted(expected))}, as when this was "
            "planned: somebody has changed it. Nothing was changed; look who, then begin anew.",
            host=zone.dns.zone,
        )
    if old != new:
        zone.replace(old, new)
        found = zone.read(name)
        if found != new:
            raise DnsChangedError(
                f"{name} was set to {', '.join(new.values)}, TTL {new.ttl_seconds} s, and the zone has "
                f"{', '.join(found.values)}, TTL {found.ttl_seconds} s: somebody changes it at the same time.",
                host=zone.dns.zone,
            )
    return old, new


def answers(dns: Dns, name: str) -> dict[str, Answer]:
    """What each authoritative server and each resolver answers now, by its host:port; an error is an answer, too."""
    asked = {resolver: False for resolver in dns.resolvers} | {server: True for server in dns.servers}
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        given = pool.map(lambda server: ask(server, name, authoritative=asked[server]), asked)
        return dict(zip(asked, given, strict=True))


def await_answers(
    dns: Dns,
    name: str,
    values: Sequence[str],
    timeout_seconds: float | None = None,
    silent_is_gone: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Propagation:
    """Wait until all authoritative servers and all resolvers answer the values, in one round.

    Args:
        dns: The inventory's `dns`, which names them.
        name: The record.
        values: What they must answer, and nothing beside it.
        timeout_seconds: For so long at most; `propagation_timeout_seconds` by default.
        silent_is_gone: Whether those that answer nobody are let be, for they lead nobody astray: with a site its name
            server is gone. One server and one resolver must answer all the same.
        tell: Told who is still waited for, whenever that changes.

    Raises NotPropagatedError that names those who do not answer it, and what they answer instead.
    """
    wanted, began = tuple(sorted(values)), time.monotonic()
    limit = dns.propagation_timeout_seconds if timeout_seconds is None else timeout_seconds
    seen: dict[str, float] = {}
    told: set[str] = set()
    while True:
        found = answers(dns, name)
        silent = tuple(sorted(server for server, answer in found.items() if answer.silent))
        heard = found if not silent_is_gone else {server: found[server] for server in found if server not in silent}
        waiting = {server: answer for server, answer in found.items() if answer.values != wanted}
        for server in found:
            # One that went back to an older answer begins anew.
            if server in waiting:
                seen.pop(server, None)
            else:
                seen.setdefault(server, time.monotonic() - began)
        both = bool(set(dns.servers) & set(seen)) and bool(set(dns.resolvers) & set(seen))
        if both and not set(heard) & set(waiting):
            return Propagation(name, wanted, seen, silent)
        said = "; ".join(f"{server} answers {answer.words}" for server, answer in waiting.items())
        if time.monotonic() - began >= limit:
            raise NotPropagatedError(
                f"{name} is {', '.join(wanted)} in the zone, but not within {limit:g} s everywhere: {said}. Users of "
                "these still go where they are led. The change stands; wait for the TTL, or ask who runs them.",
                host=dns.zone,
            )
        if set(waiting) != told:
            told = set(waiting)
            tell(f"{name}: {said}")
        time.sleep(POLL_SECONDS)
