"""Who is told about what. Pure rules over an environment's channels."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sebenza_ops.environments.inventory import Inventory
    from sebenza_ops.environments.policies import Channel, Channels


class Severity(StrEnum):
    """How urgent a message is. Manual, Alert Routing."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


# Where procedures that serve all environments report to.
COMMON_ENVIRONMENT = "production"


# Procedures that change nothing: what they could not do waits until the morning.
READ_ONLY_PROCEDURES = frozenset({"check_environment", "inventory", "watch_recovery_point"})


def failure_severity(procedure: str, refused: bool) -> Severity:
    """Return how urgent a failed run is: one that has not touched anything wakes nobody up."""
    return Severity.WARNING if refused or procedure in READ_ONLY_PROCEDURES else Severity.CRITICAL


def channels_for(channels: Channels, severity: Severity) -> tuple[Channel, ...]:
    """Return the channels of a severity, each once.

    A severity without channels goes to the next more urgent one, so that no failure is told to nobody.
    Information without channels is told to nobody.
    """
    chosen = _of(channels, severity)
    if not chosen and severity is Severity.WARNING:
        chosen = _of(channels, Severity.CRITICAL)
    elif not chosen and severity is Severity.CRITICAL:
        chosen = _of(channels, Severity.WARNING)
    return tuple(dict.fromkeys(chosen))


def channel_name(channel: Channel) -> str:
    """Return how a channel is called in the outbox, for example `slack:#alerts-critical`."""
    return f"{channel.type}:{channel.target}"


def channels_of(inventory: Inventory, environment: str) -> Channels | None:
    """Return an environment's channels.

    Those of production stand in when the environment has no valid file, and those of any other when
    production has none either: a mistake in a file must not silence a failure. None when there are none at all.
    """
    order = [environment, COMMON_ENVIRONMENT, *inventory.environments]
    for name in order:
        known = inventory.environments.get(name)
        if known is not None and _any_channel(known.policies.channels):
            return known.policies.channels
    return None


def _of(channels: Channels, severity: Severity) -> Iterable[Channel]:
    chosen: Iterable[Channel] = getattr(channels, severity.value)
    return chosen


def _any_channel(channels: Channels) -> bool:
    return any(_of(channels, severity) for severity in Severity)
