"""A person's change lets housekeeping end that has the lease just then: it takes seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from sebenza_ops.ledger.errors import LeaseHeld
from sebenza_ops.ledger.values import Holder, Lease, LeaseKind

log = logging.getLogger(__name__)

# Stopping an idle color is the longest: the application drains first, by policy some 30 s.
WAIT_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.5


def past_housekeeping(
    acquire: Callable[[], Lease],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Lease:
    """Acquire a lease; while housekeeping holds it, try again for up to WAIT_SECONDS.

    Args:
        acquire: Takes the lease, or raises LeaseHeld.
        sleep: Waits between two tries.
        clock: Seconds that only go forward.

    Raises what `acquire` raises: at once when a change holds the lease, else when the time is over.
    """
    give_up_at = clock() + WAIT_SECONDS
    waits_for: Holder | None = None
    while True:
        try:
            return acquire()
        except LeaseHeld as error:
            if error.lease.kind is not LeaseKind.HOUSEKEEPING or clock() > give_up_at:
                raise
            if error.holder != waits_for:
                waits_for = error.holder
                log.info("waiting up to %g s for housekeeping by %s", WAIT_SECONDS, error.holder)
            sleep(POLL_SECONDS)
