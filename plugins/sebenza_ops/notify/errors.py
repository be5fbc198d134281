"""Why a message could not be delivered."""

from __future__ import annotations


class DeliveryError(Exception):
    """A channel did not take a message; it is to be tried again.

    `retry_after_seconds` is what the receiver asked for, None when it did not say.
    """

    def __init__(self, channel: str, reason: str, retry_after_seconds: float | None = None) -> None:
        self.channel = channel
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{channel}: {reason}")


def retry_after_seconds(value: str | None) -> float | None:
    """Read a Retry-After header given in seconds; None when it is absent or a date."""
    try:
        return max(float(value), 0.0) if value is not None else None
    except ValueError:
        return None
