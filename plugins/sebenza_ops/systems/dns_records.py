"""A DNS record, what a server answers for one, and what can go wrong with either."""

from __future__ import annotations

from dataclasses import dataclass

from sebenza_ops.systems.errors import OutsideSystemError


@dataclass(frozen=True)
class RecordSet:
    """All addresses of a name (type A), sorted, and for how long caches may answer them."""

    name: str
    values: tuple[str, ...]
    ttl_seconds: int


@dataclass(frozen=True)
class Answer:
    """What a server answered: addresses and the TTL that is left, or why there are none; silent: it is not there."""

    values: tuple[str, ...] = ()
    ttl_seconds: int = 0
    error: str = ""
    silent: bool = False

    @property
    def words(self) -> str:
        """For people."""
        if self.error:
            return f"nothing ({self.error})"
        return f"{', '.join(self.values)} for {self.ttl_seconds} s more"


class DnsError(OutsideSystemError):
    """DNS did not do what was asked."""


class DnsUnreachableError(DnsError):
    """The server that keeps the zone does not answer. If a change was asked for, its outcome is unknown; repeat it."""


class DnsAuthenticationError(DnsError):
    """The server does not know the key, or does not take the signature. Nothing was changed."""


class DnsUpdateRefusedError(DnsError):
    """The server knows who asks, and does not let it: a right is missing, or the zone takes no updates. Unchanged."""


class DnsChangedError(DnsError):
    """The record is not what the change was planned for: somebody else has changed it. Nothing was changed."""


class NotPropagatedError(DnsError):
    """The zone has the new value, but not everybody answers it in time."""
