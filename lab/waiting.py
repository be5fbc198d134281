"""Waiting for conditions of the estate, with a deadline and a reason."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

POLL_SECONDS = 0.05


class LabError(Exception):
    """The lab can't do what was asked; the message says which part, why, and what to do."""


def until(condition: Callable[[], bool], what: str, deadline_seconds: float = 30.0) -> None:
    """Wait until `condition` is true; `LabError` with `what` after the deadline.

    A condition that raises `OSError` counts as not yet true, and the last such error is reported.
    """
    give_up_at = time.monotonic() + deadline_seconds
    reason = ""
    while True:
        try:
            if condition():
                return
        except OSError as error:
            reason = f" (last error: {error})"
        if time.monotonic() >= give_up_at:
            raise LabError(f"not within {deadline_seconds:g} s: {what}{reason}")
        time.sleep(POLL_SECONDS)


def accepts_connections(host_address: str, port: int) -> bool:
    """Whether something listens there now."""
    try:
        with socket.create_connection((host_address, port), timeout=1.0):
            return True
    except OSError:
        return False
