"""How much load may be sent: rules over what was measured, and the measuring itself on the lab's production."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import checker, haproxy
from lab.airflow.stack import LocalAirflow
from lab.connections import storage_client
from lab.load.busy_airflow import DAG_ID
from lab.load.capacity import (
    DISPATCH_DELAY_SECONDS,
    KEPT_SECONDS,
    LOAD_BALANCERS,
    MINIMUM_PER_SECOND,
    P95_SECONDS,
    SHARE,
    Capacity,
    MachineTooSlowError,
    Step,
    highest_served,
    holds,
    measure,
    next_rate,
    read_kept,
    write_kept,
)
from lab.load.processors import foreign_cores, own_seconds
from lab.load.report import LoadReport, Request
from lab.storage import BUCKET

SERVED = Step(rate=100, requests=316, failed=0, shed=0, open_at_end=1, p95_seconds=0.02, dispatch_delay_seconds=0.01)


def step(rate: float, is_served: bool) -> Step:
    return dataclasses.replace(SERVED, rate=rate, failed=0 if is_served else 3)


def capacity(per_second: float, **values: Any) -> Capacity:
    known: dict[str, Any] = {
        "per_second": per_second,
        "enough": 800,
        "beside": "runs of something",
        "measured_at": 1000.0,
        "boot_id": "this boot",
        "foreign_cores": 0.4,
        "load_average": 0.8,
        "steps": (step(per_second, True), step(per_second * 1.2, False)),
    }
    return Capacity(**{**known, **values})


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, None),
        ({"failed": 1}, "1 of 316 requests failed"),
        ({"shed": 1}, "could not be sent"),
        ({"requests": 0}, "no request was sent"),
        ({"open_at_end": 36}, "36 requests had none at the end"),
        ({"p95_seconds": P95_SECONDS + 0.01}, "p95 was 360 ms"),
        ({"dispatch_delay_seconds": DISPATCH_DELAY_SECONDS + 0.01}, "the client was 510 ms late"),
    ],
)
def test_a_rate_is_served_only_if_every_answer_came_and_came_soon(changed: dict[str, Any], why: str | None) -> None:
    shortfall = dataclasses.replace(SERVED, **changed).shortfall()

    assert shortfall is None if why is None else why in str(shortfall)


def test_a_step_is_what_the_client_saw() -> None:
    def request(outcome: str, started_at: float, finished_at: float) -> Request:
        return Request(
            started_at, started_at, finished_at, "lb1", "fresh", "GET", "/", 200, "blue", "r", outcome, False, "id", ""
        )

    ended = [("ok", 0.1, 4.9), ("ok", 1.0, 1.1), ("ok", 1.0, 2.5), ("reset", 1.0, 1.2)]
    report = LoadReport(
        started_at=0.0, ended_at=3.0, rate=60, marks={}, shed=2, cpu_seconds=0.1, max_dispatch_delay_seconds=0.03,
        all_requests=[request(*each) for each in ended],
    )  # fmt: skip

    assert Step.of(report) == Step(60, 4, 1, 2, 1, 1.5, 0.03)


def search(serves: float, enough: float) -> list[Step]:
    steps: list[Step] = []
    while (rate := next_rate(steps, enough)) is not None:
        steps.append(step(rate, rate <= serves))
        assert len(steps) < 20
    return steps


@given(serves=st.floats(1, 3000), enough=st.sampled_from([40.0, 80.0, 300.0, 400.0, 800.0]))
def test_the_highest_rate_is_found_from_below(serves: float, enough: float) -> None:
    steps = search(serves, enough)
    found = highest_served(steps)

    assert found <= min(serves, enough)
    assert found == enough or found * 1.35 + 4 >= min(serves, enough) or found == 0
    assert len(steps) <= 9
    # Never more than twice of what was seen to be served.
    for number, each in enumerate(steps):
        assert each.rate <= max(60.0, 2 * highest_served(steps[:number]))


def test_the_first_rate_is_tried_twice() -> None:
    assert [each.rate for each in search(1, 400)] == [60, 60, 30, 15, 7]
    # One burst of something else has not decided anything.
    assert next_rate([step(60, False), step(60, True)], 400) == 120


def test_others_are_tried_once() -> None:
    assert [each.rate for each in search(100, 400)] == [60, 120, 84, 100]


def test_no_more_is_tried_than_is_asked_for() -> None:
    assert [each.rate for each in search(1000, 80)] == [60, 80]
    assert [each.rate for each in search(1000, 40)] == [40]


@pytest.mark.parametrize(
    ("per_second", "maximum", "expected"),
    [(1000, 400, 400), (800, 400, 400), (430, 400, 215), (85, 400, 42), (61, 400, 30), (60, 200, 30), (80, 40, 40)],
)
def test_half_of_what_is_served_is_sent_and_never_rounded_up(
    per_second: float, maximum: float, expected: float
) -> None:
    assert capacity(per_second).rate(maximum) == expected


@given(per_second=st.floats(0, 5000), maximum=st.floats(1, 400))
def test_a_rate_is_at_most_half_and_at_most_the_maximum(per_second: float, maximum: float) -> None:
    known = capacity(per_second)
    try:
        rate = known.rate(maximum)
    except MachineTooSlowError:
        assert per_second * SHARE < MINIMUM_PER_SECOND + 1
    else:
        assert rate <= maximum
        assert rate <= per_second * SHARE


def test_a_machine_that_is_too_slow_is_told_its_figures() -> None:
    slow = capacity(50, steps=(step(60, False), step(60, False), step(50, True)))

    with pytest.raises(MachineTooSlowError) as refused:
        slow.rate(400)
    for text in (
        "serves 50 requests a second",
        "at 60: 3 of 316 requests failed",
        "less than 30",
        "Nothing was deployed",
    ):
        assert text in str(refused.value)
    # A load that is small itself still has its half.
    assert slow.rate(20) == 20
    with pytest.raises(MachineTooSlowError):
        slow.rate(26)


@pytest.mark.parametrize(
    ("changed", "enough", "now", "foreign", "expected"),
    [
        ({}, 800, 1001, 0.5, True),
        ({}, 800, 1001 + KEPT_SECONDS, 0.5, False),
        ({}, 800, 999, 0.5, False),
        ({"boot_id": "another boot"}, 800, 1001, 0.5, False),
        ({}, 800, 1001, 1.4, False),
        ({"foreign_cores": 1.4}, 800, 1001, 0.5, False),
        ({"per_second": 80, "enough": 80}, 80, 1001, 0.5, True),
        ({"per_second": 80, "enough": 80}, 400, 1001, 0.5, False),
        ({"per_second": 70, "enough": 80}, 400, 1001, 0.5, True),
    ],
    ids=["same", "old", "clock-set-back", "restarted", "busier", "idler", "enough", "not-tried", "missed"],
)
def test_what_was_measured_holds_while_the_machine_is_the_same(
    changed: dict[str, Any], enough: float, now: float, foreign: float, expected: bool
) -> None:
    kept = capacity(430, **changed) if "per_second" not in changed else capacity(**changed)

    assert holds(kept, enough, now, "this boot", foreign) is expected


def test_what_was_measured_is_kept_whole(tmp_path: Path) -> None:
    file = tmp_path / "capacity.json"
    assert read_kept(file) is None
    write_kept(file, capacity(430))
    assert read_kept(file) == capacity(430)
    file.write_text('{"per_second": 430}')
    assert read_kept(file) is None
    assert list(tmp_path.iterdir()) == [file]


def reports() -> list[str]:
    found = storage_client().list_objects_v2(Bucket=BUCKET, Prefix=f"evidence/production/{DAG_ID}/")
    return [each["Key"] for each in found.get("Contents", [])]


# What measures before a load does the same; this looks at what it leaves.
@pytest.mark.slow
@pytest.mark.long
def test_measuring_leaves_production_and_airflow_as_they_were(estate: Any, airflow: LocalAirflow) -> None:
    before = checker.check("production")
    lines: list[str] = []
    with airflow.client("operator") as client:
        runs_before, reports_before = {run["dag_run_id"] for run in client.dag_runs(DAG_ID)}, reports()
        found = measure(80, lines.append)
        runs_after = {run["dag_run_id"] for run in client.dag_runs(DAG_ID)}

    assert found.steps[0].rate == 60
    assert all(each.requests > each.rate for each in found.steps)
    assert found.beside.endswith(DAG_ID)
    assert len(lines) >= 1 + len(found.steps)
    assert runs_after == runs_before, "runs that kept Airflow busy are left"
    assert reports() == reports_before
    assert checker.check("production") == before
    assert not before.problems
    assert [haproxy.sessions(host) for host in LOAD_BALANCERS] == [0, 0]


BUSY = [sys.executable, "-c", "while True: pass"]


def test_what_nobody_of_the_lab_has_started_is_foreign() -> None:
    # Its parent ends at once.
    start = f"import subprocess; print(subprocess.Popen({BUSY!r}, stdout=subprocess.DEVNULL).pid)"
    done = subprocess.run([sys.executable, "-c", start], stdout=subprocess.PIPE, check=True)
    orphan = psutil.Process(int(done.stdout))
    try:
        found = foreign_cores()
        assert orphan.pid not in own_seconds()
    finally:
        orphan.kill()
    assert found > 0


def test_a_child_of_the_caller_is_not_foreign() -> None:
    with subprocess.Popen(BUSY) as child:
        try:
            assert child.pid in own_seconds()
        finally:
            child.kill()
