"""Keeping sets from being removed while one of them is restored: a lease of its own, which a removal must have, too.

A restore and a backup do not wait for one another; only what removes sets waits, until the next backup.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sebenza_ops.backup.jobs import WAIT_SECONDS, JobRunning
from sebenza_ops.backup.steps import LEASE_TTL_SECONDS, acquire_with_hosts
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.ledger import LeaseHeld, LeaseKind

LEASE = "sets"
# A removal of old sets takes seconds to some minutes.
REMOVAL_WAIT_SECONDS = 300.0
POLL_SECONDS = 1.0


def of(run: ChangeRun) -> ChangeRun:
    """The run, with the lease of its environment's sets beside whatever else it holds."""
    name = f"{run.environment.name}.{LEASE}"
    return ChangeRun(run.ledger, run.environment, run.holder, run.clear_number, run.conf, lease_name=name)


def hold(run: ChangeRun, purpose: str, sleep: Callable[[float], None] = time.sleep) -> ChangeRun:
    """Keep every set of the environment from now on, until `let_go` or the lease's end; take it again to prolong it.

    Raises ChangeRefusedError when old sets are being removed for too long, or another restore reads one.
    """
    held, give_up_at = of(run), time.monotonic() + REMOVAL_WAIT_SECONDS
    while True:
        try:
            acquire_with_hosts(held, purpose, LeaseKind.HOUSEKEEPING)
            return held
        except ChangeRefusedError as error:
            other = error.__cause__.lease.holder if isinstance(error.__cause__, LeaseHeld) else None
            removes = other is not None and other.dag_id.startswith("backup_database.")
            if not removes or time.monotonic() >= give_up_at:
                what = "removes old sets just now" if removes else "restores a set just now"
                raise ChangeRefusedError(
                    f"{other or error} {what}: nothing was begun. Wait for its end, then start again", is_for_now=True
                ) from error
        sleep(POLL_SECONDS)


@contextmanager
def kept(run: ChangeRun, purpose: str) -> Iterator[ChangeRun]:
    """`hold`, prolonged while something works on. It is not let go at the end: the run's next step may need it."""
    held = hold(run, purpose)
    with held.kept_lease(LEASE_TTL_SECONDS):
        yield held


def let_go(run: ChangeRun) -> None:
    """Let old sets be removed again, if this run has held them."""
    name = of(run).lease_name
    current = run.ledger.leases.current(name)
    if current is not None and current.holder.is_run(run.holder):
        run.ledger.leases.release(name, current.token, "what was read is restored, or the run has ended")


@contextmanager
def removal(run: ChangeRun) -> Iterator[ChangeRun]:
    """The time of a removal of old sets; what it does on a host carries the fence of this lease.

    Raises ChangeRefusedError while a restore reads a set.
    """
    held = of(run)
    try:
        acquire_with_hosts(held, "removal of old sets", LeaseKind.HOUSEKEEPING)
    except ChangeRefusedError as error:
        if isinstance(error.__cause__, LeaseHeld):
            other = error.__cause__.lease
            raise ChangeRefusedError(
                f"{other.holder} reads a set since {other.acquired_at.isoformat(timespec='seconds')} ({other.purpose})",
                is_for_now=True,
            ) from error
        raise
    try:
        with held.kept_lease(LEASE_TTL_SECONDS):
            yield held
    except JobRunning:
        held.extend_for_wait(WAIT_SECONDS)
        raise
    # Not after an error: what was started may go on for a while. The lease ends by itself, or with the next try.
    let_go(run)
