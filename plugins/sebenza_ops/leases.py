"""Taking an environment's lease so that its hosts know of it."""

from __future__ import annotations

from collections.abc import Callable

from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import LeaseKind
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, raise_tokens, read_tokens
from sebenza_ops.systems.ssh import kept_sessions


@kept_sessions()
def take_and_tell(
    run: ChangeRun,
    purpose: str,
    ttl_seconds: float,
    kind: LeaseKind,
    *,
    respect_freeze: bool,
    record: Callable[[], None] | None = None,
) -> int:
    """Take the lease with a token above every one that a host has seen, and make the hosts refuse lower ones.

    Args:
        run: The run.
        purpose: What it is held for, in words.
        ttl_seconds: Its life without renewal.
        kind: Housekeeping steps back for people's changes.
        respect_freeze: Refuse while the environment is frozen.
        record: Keeps in the ledger that the run has begun, before any host is told.

    Returns the token. Raises ChangeRefusedError when another run holds the lease, or the environment is frozen. A host
    that can't be reached is left to the plan, which names it.
    """
    hosts = changed_hosts(run.environment)
    seen = [answer.token for answer in read_tokens(run.environment, hosts).values() if isinstance(answer, SeenToken)]
    lease = run.acquire(purpose, ttl_seconds, max(seen, default=0), kind, respect_freeze=respect_freeze)
    if record is not None:
        record()
    answers = raise_tokens(run.environment, hosts, run.fence)
    for name, answer in answers.items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"it could not be told the fencing token: {answer}", "warning", host=name)
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    return lease.token
