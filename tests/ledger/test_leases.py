from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sebenza_ops.ledger import (
    Holder,
    LeaseHeld,
    LeaseKind,
    LeaseLost,
    Ledger,
    ReservationHeld,
    RunSuperseded,
)
from tests.ledger.conftest import SettableClock

FIRST = Holder("deploy_blue_green.production", "manual__1", "thandi")
SECOND = Holder("deploy_blue_green.production", "manual__2", "sipho")
ROTATION = Holder("rotate_logs.production", "scheduled__1", "airflow")


def test_refusal_names_holder_since_purpose_and_end(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy v1.1.0", 120)
    clock.advance(30)
    with pytest.raises(LeaseHeld) as refusal:
        ledger.leases.acquire("production", SECOND, "deploy v1.2.0", 120)
    assert refusal.value.holder == FIRST
    assert refusal.value.lease == held
    for part in (
        "deploy_blue_green.production",
        "manual__1",
        "thandi",
        "deploy v1.1.0",
        "2026-03-01T02:00:00+00:00",
        "2026-03-01T02:02:00+00:00",
    ):
        assert part in str(refusal.value)


def test_environments_are_independent(ledger: Ledger) -> None:
    ledger.leases.acquire("production", FIRST, "deploy", 120)
    assert ledger.leases.acquire("staging", SECOND, "deploy", 120).token == 1


def test_retry_of_the_holding_run_gets_the_same_lease_renewed(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    clock.advance(100)
    again = ledger.leases.acquire("production", FIRST, "deploy", 120)
    assert again.token == held.token
    assert again.acquired_at == held.acquired_at
    assert again.expires_at == clock.moment + timedelta(seconds=120)


def test_token_is_higher_than_what_hosts_have_seen(ledger: Ledger) -> None:
    assert ledger.leases.acquire("production", FIRST, "deploy", 120, minimum_token=41).token == 42


def test_holding_run_gets_a_new_token_when_hosts_have_seen_a_higher_one(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    again = ledger.leases.acquire("production", FIRST, "deploy", 120, minimum_token=held.token + 5)
    assert again.token == held.token + 6
    with pytest.raises(LeaseLost):
        ledger.leases.renew("production", held.token, 120)


def test_same_run_gets_a_higher_token_after_its_own_release(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    ledger.leases.release("production", held.token, "finished")
    assert ledger.leases.acquire("production", FIRST, "deploy", 120).token > held.token


def test_expired_lease_does_not_block(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    clock.advance(120)
    assert ledger.leases.current("production") is None
    assert ledger.leases.acquire("production", SECOND, "deploy", 120).token > held.token
    ended = ledger.leases.history("production")[1]
    assert (ended.ended_at, ended.end_reason) == (held.expires_at, "expired")


def test_renewal_after_expiry_is_refused_even_when_nobody_took_it(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    clock.advance(121)
    with pytest.raises(LeaseLost, match=r"expired at .* nobody has it now"):
        ledger.leases.renew("production", held.token, 120)
    assert ledger.leases.acquire("production", FIRST, "deploy", 120).token == held.token + 1


def test_renewal_after_somebody_took_it_says_who(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    clock.advance(121)
    ledger.leases.acquire("production", SECOND, "deploy v1.2.0", 120)
    with pytest.raises(LeaseLost, match=r"manual__2.*sipho") as lost:
        ledger.leases.renew("production", held.token, 120)
    assert lost.value.current is not None
    assert lost.value.current.holder == SECOND


def test_renewal_of_a_token_that_never_was(ledger: Ledger) -> None:
    with pytest.raises(LeaseLost, match="no such lease"):
        ledger.leases.renew("production", 7, 120)


def test_extend_until_outlives_a_long_wait(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    until = clock.moment + timedelta(hours=4)
    ledger.leases.extend_until("production", held.token, until)
    clock.advance(4 * 3600 - 1)
    assert ledger.leases.renew("production", held.token, 120).token == held.token


def test_extend_until_refuses_a_naive_time(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    with pytest.raises(ValueError, match="no time zone"):
        ledger.leases.extend_until("production", held.token, datetime(2026, 3, 1, 4, 0))  # noqa: DTZ001


def test_releasing_twice_does_nothing(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    assert ledger.leases.release("production", held.token, "finished") is True
    assert ledger.leases.release("production", held.token, "finished again") is False
    assert ledger.leases.history("production")[0].end_reason == "finished"


def test_late_release_of_an_old_token_leaves_the_new_holder_alone(ledger: Ledger, clock: SettableClock) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    clock.advance(121)
    taken = ledger.leases.acquire("production", SECOND, "deploy", 120)
    ledger.leases.release("production", held.token, "teardown of a zombie")
    assert ledger.leases.current("production") == taken


def test_take_over_ends_the_holder_and_is_audited(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    rollback = Holder("rollback.production", "manual__9", "lerato")
    taken = ledger.leases.take_over("production", rollback, "site down, INC-7", 300)
    assert taken.token > held.token
    with pytest.raises(LeaseLost, match=r"taken over by rollback\.production"):
        ledger.leases.renew("production", held.token, 120)
    entry = ledger.audit.entries(environment="production", action="lease.taken_over")[0]
    assert entry.actor == "lerato"
    assert entry.detail["reason"] == "site down, INC-7"
    assert "manual__1" in entry.detail["former_holder"]
    assert ledger.leases.take_over("production", rollback, "again", 300).token == taken.token


@pytest.mark.parametrize("end", ["release", "expire"])
def test_cleared_run_is_refused_after_a_later_change(ledger: Ledger, clock: SettableClock, end: str) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy v1.1.0", 120)
    if end == "release":
        ledger.leases.release("production", held.token, "finished")
    clock.advance(121)
    later = ledger.leases.acquire("production", SECOND, "deploy v1.2.0", 120)
    ledger.leases.release("production", later.token, "finished")
    assert ledger.leases.superseded_by("production", FIRST) is not None
    for attempt in (
        lambda: ledger.leases.acquire("production", FIRST, "deploy v1.1.0", 120),
        lambda: ledger.leases.reserve("production", FIRST, "deploy v1.1.0", 120),
        lambda: ledger.leases.take_over("production", FIRST, "please", 120),
    ):
        with pytest.raises(RunSuperseded, match="manual__2"):
            attempt()
    assert ledger.leases.current("production") is None
    assert ledger.leases.superseded_by("production", SECOND) is None


def test_housekeeping_does_not_supersede_and_is_not_superseded(ledger: Ledger) -> None:
    held = ledger.leases.acquire("production", FIRST, "deploy", 120)
    ledger.leases.release("production", held.token, "failed")
    rotation = ledger.leases.acquire("production", ROTATION, "rotate logs", 60, kind=LeaseKind.HOUSEKEEPING)
    ledger.leases.release("production", rotation.token, "finished")
    again = ledger.leases.acquire("production", FIRST, "deploy", 120)
    ledger.leases.release("production", again.token, "finished")
    assert ledger.leases.acquire("production", ROTATION, "rotate logs", 60, kind=LeaseKind.HOUSEKEEPING)


def test_reservation_refuses_a_second_deployment_but_no_housekeeping(ledger: Ledger) -> None:
    ledger.leases.reserve("production", FIRST, "deploy v1.1.0", 3600)
    with pytest.raises(ReservationHeld, match=r"manual__1.*thandi.*deploy v1\.1\.0"):
        ledger.leases.reserve("production", SECOND, "deploy v1.2.0", 3600)
    with pytest.raises(ReservationHeld):
        ledger.leases.acquire("production", SECOND, "deploy v1.2.0", 120, respect_reservation=True)
    rotation = ledger.leases.acquire("production", ROTATION, "rotate logs", 60, kind=LeaseKind.HOUSEKEEPING)
    ledger.leases.release("production", rotation.token, "finished")
    assert ledger.leases.current_reservation("production") is not None


def test_lease_takes_the_place_of_the_own_reservation(ledger: Ledger) -> None:
    ledger.leases.reserve("production", FIRST, "deploy", 3600)
    ledger.leases.acquire("production", FIRST, "deploy", 120, respect_reservation=True)
    assert ledger.leases.current_reservation("production") is None


def test_reserving_is_refused_while_another_run_changes(ledger: Ledger) -> None:
    ledger.leases.acquire("production", FIRST, "deploy", 120)
    with pytest.raises(LeaseHeld, match="manual__1"):
        ledger.leases.reserve("production", SECOND, "deploy", 3600)


def test_reserving_is_possible_beside_housekeeping(ledger: Ledger) -> None:
    ledger.leases.acquire("production", ROTATION, "rotate logs", 60, kind=LeaseKind.HOUSEKEEPING)
    assert ledger.leases.reserve("production", FIRST, "deploy", 3600).holder == FIRST


def test_reservation_is_prolonged_expires_and_ends(ledger: Ledger, clock: SettableClock) -> None:
    ledger.leases.reserve("production", FIRST, "deploy", 60)
    clock.advance(50)
    assert ledger.leases.reserve("production", FIRST, "deploy", 60).expires_at == clock.moment + timedelta(seconds=60)
    clock.advance(60)
    assert ledger.leases.current_reservation("production") is None
    ledger.leases.reserve("production", SECOND, "deploy", 60)
    assert ledger.leases.release_reservation("production", FIRST, "not mine") is False
    assert ledger.leases.release_reservation("production", SECOND, "rejected") is True
    assert ledger.leases.release_reservation("production", SECOND, "rejected") is False


def test_admin_clears_a_stuck_reservation(ledger: Ledger) -> None:
    ledger.leases.reserve("production", FIRST, "deploy", 3600)
    assert ledger.leases.clear_reservation("production", "lerato", "thandi is on leave") is True
    assert ledger.audit.entries(action="reservation.ended")[0].actor == "lerato"


def test_times_come_back_aware_and_in_utc(ledger: Ledger, clock: SettableClock) -> None:
    clock.moment = datetime(2026, 3, 1, 4, 0, tzinfo=timezone(timedelta(hours=2)))
    ledger.leases.acquire("production", FIRST, "deploy", 120)
    lease = ledger.leases.current("production")
    assert lease is not None
    assert lease.acquired_at == datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    assert lease.acquired_at.utcoffset() == timedelta(0)


def test_real_clock_is_used_when_none_is_given(database_url: str) -> None:
    before = datetime.now(UTC)
    lease = Ledger.open(database_url).leases.acquire("production", FIRST, "deploy", 120)
    assert before - timedelta(seconds=5) < lease.acquired_at < datetime.now(UTC) + timedelta(seconds=5)
