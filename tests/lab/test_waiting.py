"""How long the lab, the tests and the benchmarks wait: by progress and by the machine, with a clock that is set."""

from __future__ import annotations

import pytest

from lab.waiting import LabError, Patience, load_per_core, machine_slowness, scaled, slowness, until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def over_after(patience: Patience, clock: Clock, most: int = 1000) -> int | None:
    """After how many seconds it is over, looked at each second."""
    began = clock.now
    while clock.now - began < most:
        if patience.is_over():
            return int(clock.now - began)
        clock.now += 1
    return None


def quiet(_: str) -> None: ...


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 30), (2.5, 75)], ids=["idle", "slow"])
def test_the_time_is_the_machines(clock: Clock, factor: float, expected: int) -> None:
    patience = Patience("it", 30, clock=clock, factor=lambda: factor, say=quiet)

    assert over_after(patience, clock) == expected


def test_a_load_that_has_gone_has_made_it_late_all_the_same(clock: Clock) -> None:
    factors = [3.0]
    patience = Patience("it", 10, clock=clock, factor=lambda: factors[0], say=quiet)
    clock.now += 10
    assert not patience.is_over()
    factors[0] = 1.0

    assert over_after(patience, clock) == 20


def test_what_moves_begins_the_time_anew(clock: Clock) -> None:
    moves_until = clock.now + 100
    patience = Patience(
        "it", 30, progress=lambda: min(clock.now, moves_until), clock=clock, factor=lambda: 1.0, say=quiet
    )

    assert over_after(patience, clock) == 130


def test_what_does_not_move_is_over_in_its_time(clock: Clock) -> None:
    patience = Patience("it", 30, progress=lambda: "still", clock=clock, factor=lambda: 1.0, say=quiet)

    assert over_after(patience, clock) == 30


def test_what_moves_for_ever_is_over_at_last(clock: Clock) -> None:
    patience = Patience(
        "it", 30, progress=lambda: clock.now, cap_seconds=200, clock=clock, factor=lambda: 1.0, say=quiet
    )

    assert over_after(patience, clock) == 200


def test_progress_that_cant_be_told_is_none_and_is_said(clock: Clock) -> None:
    def progress() -> int:
        raise ConnectionRefusedError("nobody there")

    patience = Patience("it", 30, progress=progress, clock=clock, factor=lambda: 1.0, say=quiet)

    assert over_after(patience, clock) == 30
    assert "nobody there" in patience.told()


def test_a_long_wait_says_what_it_waits_for_and_what_has_moved(clock: Clock) -> None:
    said: list[str] = []
    patience = Patience(
        "the bucket can be listed",
        100,
        progress=lambda: f"{int(clock.now) // 8} MB",
        clock=clock,
        factor=lambda: 1.0,
        say=said.append,
    )
    began, seconds = clock.now, 35
    while clock.now < began + seconds:
        patience.is_over()
        clock.now += 1

    assert [line.split(" s so far")[0] for line in said] == ["waiting, 10", "waiting, 20", "waiting, 30"]
    assert all("the bucket can be listed" in line and " MB" in line for line in said)


def test_the_end_says_what_how_long_what_moved_last_and_the_machine(clock: Clock) -> None:
    patience = Patience("it is there", 30, progress=lambda: "7 of 9", clock=clock, factor=lambda: 2.0, say=quiet)
    over_after(patience, clock)

    told = patience.told()

    assert told.startswith("not within 60 s: it is there; progress: 7 of 9, unchanged for 60 s")
    assert "30 s without progress, times 2.0" in told
    assert "load" in told


def test_the_measure_is_never_below_one_and_bounded() -> None:
    assert machine_slowness() >= 1
    assert load_per_core() >= 1
    assert 1 <= slowness() <= 12
    assert scaled(10) >= 10


def test_until_returns_as_soon_as_it_is_so() -> None:
    answers = iter([False, False, True])

    until(lambda: next(answers), "the third answer", poll_seconds=0)

    assert list(answers) == []


def test_until_asks_once_more_after_its_time() -> None:
    """A process that was paused beyond the deadline, before its first look, still sees what has come true."""
    until(lambda: True, "it", 0)


def test_until_says_the_last_error_and_raises_what_it_is_told_to() -> None:
    def refused() -> bool:
        raise ConnectionRefusedError("port 5432")

    with pytest.raises(LookupError, match=r"not within .* s: it answers .*; last error: port 5432"):
        until(refused, "it answers", 0, error=LookupError)
    with pytest.raises(LabError, match="it answers"):
        until(refused, "it answers", 0)
