"""What people give as a target is one moment or a refusal, and what the archive can reach is known exactly."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.point_finish import judge
from sebenza_ops.recovery.point_reach import (
    SET_END_MARGIN,
    Window,
    find_point,
    reachable,
    set_for_position,
    set_for_time,
    windows,
)
from sebenza_ops.recovery.point_target import TargetRefusedError, parse_moment, parse_target
from sebenza_ops.systems.pgbackrest import RepositorySet
from sebenza_ops.systems.wal_archive import (
    ArchivedWal,
    Chain,
    RestorePoint,
    WalEnd,
    follow,
    is_on,
    parse_found,
    parse_history,
    parse_listing,
    segment_number,
    segment_of,
)

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-01 12:00Z", NOON),
        ("2026-03-01T12:00:00.25+00:00", NOON + timedelta(seconds=0.25)),
        ("2026-03-01 14:00:00+02", NOON),
        ("2026-03-01 17:30 Asia/Kolkata", NOON),
        ("2026-03-01 07:00:00 -0500", NOON),
        ("2026-03-01 12:00 UTC", NOON),
    ],
)
def test_a_moment_is_taken_with_its_zone(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment
    assert parse_target("time", text).setting == moment.strftime("%Y-%m-%d %H:%M:%S.%f+00")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-03-01 12:00", "has no time zone"),
        ("2026-03-01", "is no moment"),
        ("yesterday", "is no moment"),
        ("2026-02-30 12:00Z", "is no moment"),
        ("2026-03-01 12:00 IST", "is ambiguous"),
        ("2026-03-01 12:00 Mars/Olympus", "there is no time zone"),
        ("2026-03-01 12:00+99:00", "no offset that any place has"),
        # The clocks of Berlin: back at 3 on 25 October, forward at 2 on 29 March.
        ("2026-10-25 02:30 Europe/Berlin", r"it was twice. Give an offset, \+02:00 or \+01:00"),
        ("2026-03-29 02:30 Europe/Berlin", "never was: the clocks were put forward"),
    ],
)
def test_what_is_not_one_moment_is_refused(text: str, why: str) -> None:
    with pytest.raises(TargetRefusedError, match=why):
        parse_moment(text)


@given(st.integers(0, 40 * 366 * 86400 * 10**6), st.integers(-14, 14))
def test_an_offset_names_the_same_moment_as_python_says(microseconds: int, hours: int) -> None:
    local = NOON.replace(tzinfo=None) - timedelta(days=9000) + timedelta(microseconds=microseconds)
    text = f"{local.isoformat(sep=' ')}{hours:+03d}:00"
    assert parse_moment(text) == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("lsn", "3000060"),
        ("lsn", "0/XYZ"),
        ("xid", "2"),
        ("xid", "-5"),
        ("xid", "99999999999"),
        ("name", "it's"),
        ("name", ""),
    ],
)
def test_other_targets_are_checked(kind: str, text: str) -> None:
    with pytest.raises(TargetRefusedError):
        parse_target(kind, text)
    with pytest.raises(TargetRefusedError, match="leave `exclusive` out"):
        parse_target("name", "before", exclusive=True)


def names(timeline: int, first: int, last: int) -> list[str]:
    return [segment_of(timeline, number) for number in range(first, last + 1)]


def test_a_chain_ends_at_the_first_segment_that_is_missing() -> None:
    history = parse_history(1, "")
    there = names(1, 254, 258)
    whole = follow(there, history, there[0])
    assert (list(whole.segments), whole.missing, whole.is_gap) == (there, segment_of(1, 259), False)
    assert there[2] == "000000010000000100000000", "numbers go on in the next file name"
    broken = follow([*there[:2], *there[3:]], history, there[0])
    assert (list(broken.segments), broken.missing, broken.is_gap) == (there[:2], there[2], True)


def test_a_chain_follows_the_history_and_not_what_was_left() -> None:
    # Timeline 2 left timeline 1 in segment 5; 1 went on to 8.
    history = parse_history(2, "1\t0/5000098\tno recovery target specified\n")
    there = [*names(1, 2, 8), *names(2, 5, 6)]
    chain = follow(there, history, segment_of(1, 2))
    assert chain == Chain((*names(1, 2, 4), *names(2, 5, 6)), segment_of(2, 7), False)
    assert follow(there[1:], history, segment_of(1, 2)) == Chain((), segment_of(1, 2), True)
    assert follow(there, parse_history(1, ""), segment_of(1, 2)).segments == tuple(names(1, 2, 8))
    assert is_on(history, 1, 0x5000098)
    assert not is_on(history, 1, 0x6000000), "a set of what was left is no base"
    assert is_on(history, 2, 0x6000000)


@given(st.integers(0, 2**40))
def test_a_segments_name_and_number_are_the_same_thing(number: int) -> None:
    number %= 2**32 * 256
    assert segment_number(segment_of(3, number)) == number


def a_set(label: str, first: int, minutes: int, **changed: object) -> RepositorySet:
    end = NOON + timedelta(minutes=minutes)
    values: dict[str, object] = {
        "label": label, "backup_type": "full", "started_at": end - timedelta(minutes=1), "finished_at": end,
        "size_bytes": 1, "stored_bytes": 1, "based_on": None, "lsn_start": f"0/{first:X}000028",
        "lsn_stop": f"0/{first:X}000100", "wal_start": segment_of(1, first), "wal_stop": segment_of(1, first),
        "has_error": False, **changed,
    }  # fmt: skip
    return RepositorySet(**values)  # type: ignore[arg-type]


def found(sets: list[RepositorySet], segments: list[str], bad: set[str] | None = None) -> tuple[Window, ...]:
    return windows(sets, bad or set(), ArchivedWal("15-1", frozenset(segments), frozenset()), parse_history(1, ""))


def test_damaged_sets_and_those_without_their_wal_are_no_base() -> None:
    sets = [a_set("one", 2, 0), a_set("two", 4, 10), a_set("three", 5, 20, based_on="two"), a_set("four", 7, 30)]
    whole = found(sets, names(1, 2, 9))
    assert [each.label for each in whole[0].sets] == ["one", "two", "three", "four"]
    assert [each.label for each in found(sets, names(1, 2, 9), {"two"})[0].sets] == ["one", "four"]
    gap = found(sets, [*names(1, 2, 4), *names(1, 6, 9)])
    assert [[each.label for each in window.sets] for window in gap] == [["one", "two"], ["four"]]
    assert gap[0].chain.is_gap
    assert "WAL segment 000000010000000000000005 is missing" in reachable(gap)
    assert reachable(()).startswith("nothing")


def test_the_newest_set_before_a_target_is_taken_and_its_end_counts() -> None:
    end = WalEnd(segment_of(1, 9), 0x9000200, 0x9000100, NOON + timedelta(minutes=40))
    window = Window((a_set("one", 2, 0), a_set("two", 4, 10)), Chain(tuple(names(1, 2, 9)), "", False), end)

    def chosen(moment: datetime) -> str:
        return set_for_time(parse_target("time", moment.isoformat()), [window], NOON + timedelta(hours=1))[0].label

    assert chosen(NOON + SET_END_MARGIN) == "one"
    assert chosen(NOON + timedelta(minutes=10)) == "one", "within the second in which a set ends it may not be whole"
    assert chosen(NOON + timedelta(minutes=10) + SET_END_MARGIN) == "two"
    for late in (NOON, NOON + timedelta(minutes=40), NOON + timedelta(hours=2)):
        with pytest.raises(TargetRefusedError, match=r"Nothing was started\. Reachable: 2026-03-01 12:00:01"):
            chosen(late)
    position = parse_target("lsn", "0/9000200")
    assert set_for_position(position, 0x9000200, [window])[0].label == "two"
    with pytest.raises(TargetRefusedError, match="its archived WAL ends before"):
        set_for_position(position, 0x9000201, [window])


def test_a_restore_point_is_found_once_or_refused() -> None:
    target = parse_target("name", "before")
    points = [RestorePoint("before", 5, None), RestorePoint("before", 5, None), RestorePoint("other", 6, None)]
    assert find_point(target, points, ()).lsn == 5
    with pytest.raises(TargetRefusedError, match="is ambiguous, there are 2: 0/5, 0/7"):
        find_point(target, [*points, RestorePoint("before", 7, None)], ())
    with pytest.raises(TargetRefusedError, match="restore points there: other"):
        find_point(target, points[2:], ())


def test_listing_and_findings_are_read() -> None:
    listing = (
        f"15-1/0000000100000000/{segment_of(1, 3)}-{'a' * 40}.zst\n15-1/0000000100000000/{segment_of(1, 4)}.partial-"
        f"{'b' * 40}.zst\n15-1/00000002.history\n15-1\n14-9/0000000100000000/{segment_of(1, 9)}-{'c' * 40}.zst\n"
    )
    # The newest cluster of the stanza has the highest number behind the dash.
    assert parse_listing(listing, "db1") == ArchivedWal("14-9", frozenset({segment_of(1, 9)}), frozenset())
    ours = parse_listing(listing.replace("14-9", "14-0"), "db1")
    assert (ours.segments, ours.timelines) == (frozenset({segment_of(1, 3)}), frozenset({2}))
    text = (
        '{"what": "end", "segment": "X", "lsn": "0/30", "commit": "0/20", "at": "2026-03-01 12:00:00.5"}\n'
        '{"what": "point", "lsn": "0/31", "name": "b \\"c", "after": ""}\n'
        '{"what": "ABORT", "lsn": "0/32", "at": "2026-03-01 12:00:00.500000"}\n'
    )
    end, point, aborted = parse_found(text, "db1")
    assert end == WalEnd("X", 0x30, 0x20, NOON + timedelta(seconds=0.5))
    assert point == RestorePoint('b "c', 0x31, None)
    assert not getattr(aborted, "is_commit", True)


@pytest.mark.parametrize(
    ("failed", "state", "plan_only", "rejected", "outcome"),
    [
        ([], "swapped", False, False, Outcome.SUCCEEDED),
        ([], "", True, False, Outcome.PLANNED),
        (["plan_restore"], "", False, False, Outcome.REFUSED),
        (["approve_exchange"], "restored", False, True, Outcome.REJECTED),
        (["exchange_cluster"], "taken back", False, False, Outcome.ROLLED_BACK),
        (["rebuild_replica"], "swapped", False, False, Outcome.FAILED),
        (["restore_beside"], "restoring", False, False, Outcome.FAILED),
    ],
)
def test_outcomes(failed: list[str], state: str, plan_only: bool, rejected: bool, outcome: Outcome) -> None:
    assert judge(failed, state, plan_only=plan_only, rejected=rejected) is outcome
