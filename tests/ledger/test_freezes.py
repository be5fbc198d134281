"""Freezes: no change begins in them, and what has begun ends well."""

from __future__ import annotations

from datetime import timedelta

import pytest

from sebenza_ops.ledger import EnvironmentFrozen, Holder, LeaseKind, Ledger
from tests.ledger.conftest import SettableClock

FREEZE = Holder("freeze.production", "manual__7", "lerato")
DEPLOYMENT = Holder("deploy_blue_green.production", "manual__1", "thandi")


def freeze(ledger: Ledger, clock: SettableClock, hours: float = 2, holder: Holder = FREEZE) -> None:
    ledger.leases.freeze("production", holder, "Black Friday", clock.moment + timedelta(hours=hours))


def deploy(ledger: Ledger, *, kind: LeaseKind = LeaseKind.CHANGE) -> int:
    return ledger.leases.acquire("production", DEPLOYMENT, "deploy", 120, kind=kind, respect_freeze=True).token


@pytest.mark.parametrize("kind", list(LeaseKind))
def test_a_change_is_refused_with_who_until_and_why(ledger: Ledger, clock: SettableClock, kind: LeaseKind) -> None:
    freeze(ledger, clock)
    with pytest.raises(EnvironmentFrozen) as refusal:
        deploy(ledger, kind=kind)
    for part in ("lerato", "2026-03-01T04:00:00+00:00", "Black Friday", "lift_freeze.production"):
        assert part in str(refusal.value)
    assert ledger.leases.current("production") is None


def test_a_run_that_began_before_goes_on_and_a_rollback_begins(ledger: Ledger, clock: SettableClock) -> None:
    token = deploy(ledger)
    freeze(ledger, clock)
    assert deploy(ledger) == token
    ledger.leases.release("production", token, "ended")
    # Who asks without respect, as a rollback and the settling end of a run do, is let in.
    assert ledger.leases.acquire("production", DEPLOYMENT, "settle", 120).token > token


def test_a_freeze_ends_by_itself(ledger: Ledger, clock: SettableClock) -> None:
    freeze(ledger, clock, hours=1)
    clock.advance(3600)
    assert ledger.leases.current_freeze("production") is None
    assert deploy(ledger)
    freeze(ledger, clock, hours=1, holder=Holder("freeze.production", "manual__8", "thandi"))
    found = ledger.leases.current_freeze("production")
    assert found is not None
    assert found.holder.actor == "thandi"


def test_a_freeze_is_lifted_once_and_audited(ledger: Ledger, clock: SettableClock) -> None:
    freeze(ledger, clock)
    lifted = ledger.leases.lift_freeze("production", "the sale is over", "thandi")
    assert lifted is not None
    assert lifted.holder == FREEZE
    assert ledger.leases.lift_freeze("production", "again", "thandi") is None
    assert deploy(ledger)
    actions = [(entry.action, entry.actor) for entry in ledger.audit.entries()]
    assert ("freeze.ended", "thandi") in actions
    assert ("freeze.placed", "lerato") in actions


def test_a_second_freeze_replaces_the_first_and_a_retry_changes_nothing(ledger: Ledger, clock: SettableClock) -> None:
    freeze(ledger, clock, hours=9)
    freeze(ledger, clock, hours=1, holder=Holder("freeze.production", "manual__8", "thandi"))
    freeze(ledger, clock, hours=5, holder=Holder("freeze.production", "manual__8", "thandi"))
    found = ledger.leases.current_freeze("production")
    assert found is not None
    assert found.expires_at == clock.moment + timedelta(hours=1)


def test_environments_freeze_alone(ledger: Ledger, clock: SettableClock) -> None:
    freeze(ledger, clock)
    assert ledger.leases.acquire("staging", DEPLOYMENT, "deploy", 120, respect_freeze=True)


def test_an_end_that_is_over_or_naive_is_refused(ledger: Ledger, clock: SettableClock) -> None:
    with pytest.raises(ValueError, match="in the past"):
        freeze(ledger, clock, hours=0)
    with pytest.raises(ValueError, match="time zone"):
        ledger.leases.freeze("production", FREEZE, "x", (clock.moment + timedelta(hours=1)).replace(tzinfo=None))
