"""Recovery points: the newest answer is kept, a miss has a beginning, and people hear of it at the right moments."""

from __future__ import annotations

from sebenza_ops.ledger import Holder, KnownPoint, Ledger
from sebenza_ops.ledger.recovery_points import MET, MISSED
from tests.ledger.conftest import SettableClock

RUN = Holder("watch_recovery_point.production", "scheduled__1", "scheduler")
OBJECTIVE = 3600


def measured(ledger: Ledger, seconds: float | None, reason: str = "asked") -> KnownPoint:
    return ledger.recovery_points.record("production", seconds, reason, OBJECTIVE, RUN)


def crossings(ledger: Ledger) -> list[str]:
    entries = ledger.audit.entries(environment="production")
    return [entry.action for entry in reversed(entries) if entry.action in {MISSED, MET}]


def test_the_newest_answer_is_kept(ledger: Ledger, clock: SettableClock) -> None:
    assert ledger.recovery_points.latest("production") is None
    measured(ledger, 40.0)
    clock.advance(600)
    measured(ledger, 20.0, "nothing waits")
    point = ledger.recovery_points.latest("production")
    assert point is not None
    assert (point.seconds(clock()), point.reason, point.missed_since) == (20.0, "nothing waits", None)
    clock.advance(60)
    assert point.seconds(clock()) == 80.0, "what came after the answer is not counted as lost"
    assert ledger.recovery_points.latest("staging") is None
    assert crossings(ledger) == []


def test_while_nobody_answers_it_grows_until_it_is_a_miss(ledger: Ledger, clock: SettableClock) -> None:
    measured(ledger, 30.0)
    for _ in range(5):
        clock.advance(600)
        point = ledger.recovery_points.carry_on("production", "db1 does not answer", OBJECTIVE, RUN)
        assert point.missed_since is None
    clock.advance(600)
    point = ledger.recovery_points.carry_on("production", "db1 does not answer", OBJECTIVE, RUN)
    assert (point.seconds(clock()), point.missed_since) == (3630.0, clock())
    assert crossings(ledger) == [MISSED]


def test_without_an_earlier_answer_nothing_is_counted_on(ledger: Ledger, clock: SettableClock) -> None:
    point = ledger.recovery_points.carry_on("production", "db1 does not answer", OBJECTIVE, RUN)
    assert point.seconds(clock()) is None
    assert point.missed_since == clock()
    assert measured(ledger, None, "nothing was ever archived").missed_since == clock()
    assert crossings(ledger) == [MISSED]


def test_people_hear_of_a_miss_once_then_once_an_objective_and_of_its_end(ledger: Ledger, clock: SettableClock) -> None:
    assert not measured(ledger, 30.0).is_to_be_told
    told = 0
    for _ in range(13):
        clock.advance(600)
        if measured(ledger, 4000.0).is_to_be_told:
            told += 1
            ledger.recovery_points.mark_told("production")
    # At once, and after an hour and after two.
    assert told == 3
    over = measured(ledger, 3600.0)
    assert (over.is_over, over.is_to_be_told, over.missed_since) == (True, False, None)
    ledger.recovery_points.mark_told("production")
    assert not measured(ledger, 10.0).is_over
    assert crossings(ledger) == [MISSED, MET]


def test_what_could_not_be_told_is_told_the_next_time(ledger: Ledger) -> None:
    assert measured(ledger, 4000.0).is_to_be_told
    assert measured(ledger, 4000.0).is_to_be_told
