"""A change that begins while housekeeping has the lease."""

from __future__ import annotations

from pathlib import Path

import pytest

from sebenza_ops.ledger import Holder, Lease, LeaseHeld, LeaseKind, Ledger, past_housekeeping
from sebenza_ops.ledger.housekeeping import POLL_SECONDS, WAIT_SECONDS

STOP = Holder("stop_idle_color.production", "after__1", "thandi")
OTHER = Holder("deploy_standard.production", "manual__2", "sipho")
DEPLOY = Holder("deploy_blue_green.production", "manual__3", "thandi")


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger.open(f"sqlite:///{tmp_path}/ledger.db")
    found.migrate()
    return found


def deploy(ledger: Ledger) -> Lease:
    return ledger.leases.acquire("production", DEPLOY, "deploy v1.1.0", 120)


def test_it_begins_when_housekeeping_has_ended(ledger: Ledger) -> None:
    stop = ledger.leases.acquire("production", STOP, "stop the old color", 120, kind=LeaseKind.HOUSEKEEPING)
    clock = Clock()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.now == 2 * POLL_SECONDS:
            ledger.leases.release("production", stop.token, "stopped")

    lease = past_housekeeping(lambda: deploy(ledger), sleep=sleep, clock=clock)
    assert lease.holder == DEPLOY
    assert clock.now == 2 * POLL_SECONDS


def test_another_change_is_not_waited_for(ledger: Ledger) -> None:
    ledger.leases.acquire("production", OTHER, "deploy v1.2.0", 120)
    with pytest.raises(LeaseHeld, match=r"deploy_standard\.production"):
        past_housekeeping(lambda: deploy(ledger), sleep=lambda _: pytest.fail("it waited"))


def test_housekeeping_that_does_not_end_is_named(ledger: Ledger) -> None:
    ledger.leases.acquire("production", STOP, "stop the old color", 3600, kind=LeaseKind.HOUSEKEEPING)
    clock = Clock()
    with pytest.raises(LeaseHeld, match=r"stop_idle_color\.production"):
        past_housekeeping(lambda: deploy(ledger), sleep=clock.sleep, clock=clock)
    assert WAIT_SECONDS < clock.now <= WAIT_SECONDS + 2 * POLL_SECONDS
