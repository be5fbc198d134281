"""The rollback triggers, at their limits and over simulated time."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sebenza_ops.deployment.judge import (
    AlertObservation,
    BakeClock,
    JudgePolicy,
    LatencyObservation,
    Observation,
    TrafficDelta,
    Trigger,
    VerdictKind,
    judge,
    judge_errors,
    judge_latency,
    wilson_lower_bound,
)

POLICY = JudgePolicy()
SWITCHED_AT = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NOW = SWITCHED_AT.timestamp() + 60
GOOD_LATENCY = LatencyObservation(p95_seconds=0.05, requests=1000, age_seconds=1)


def steady(requests: int, errors: int, seconds: int = 60) -> list[TrafficDelta]:
    """So many requests and errors in each of the last seconds."""
    return [TrafficDelta(NOW - second, requests, errors) for second in reversed(range(seconds))]


def observed(**changes) -> Observation:
    values: dict[str, Any] = {
        "at": NOW,
        "deltas": steady(100, 0),
        "servers_down": (),
        "latency": GOOD_LATENCY,
        "alerts": (),
    }
    return Observation(**(values | changes))


def test_a_healthy_color_passes():
    assert judge(observed(), POLICY, SWITCHED_AT).kind is VerdictKind.PASS


@pytest.mark.parametrize(
    ("requests", "errors", "kind"),
    [
        (100, 5, VerdictKind.PASS),  # exactly 5 % does not exceed 5 %
        (100, 6, VerdictKind.FAIL),
        (100, 0, VerdictKind.PASS),
        (100, 100, VerdictKind.FAIL),
        (0, 0, VerdictKind.NO_DATA),
    ],
)
def test_the_error_ratio_is_a_ratio_of_requests(requests, errors, kind):
    verdict = judge_errors(steady(requests, errors), NOW, POLICY)
    assert verdict.kind is kind, verdict.reason


def test_errors_a_second_without_a_ratio_do_not_trigger():
    """The manual's alert rule counts errors a second: 0.4 % of 2,000 requests a second are 8 of them."""
    assert judge_errors(steady(2000, 8), NOW, POLICY).kind is VerdictKind.PASS


def test_one_error_among_few_requests_is_no_verdict():
    deltas = [TrafficDelta(NOW - 1, 3, 1)]
    assert judge_errors(deltas, NOW, POLICY).kind is VerdictKind.PASS


def test_a_release_that_fails_all_of_few_requests_is_found():
    """One request in two seconds never fills a window, and every answer is an error."""
    deltas = [TrafficDelta(NOW - 2 * n, 1, 1) for n in reversed(range(3))]
    assert judge_errors(deltas, NOW, POLICY).kind is VerdictKind.FAIL
    assert judge_errors(deltas[:2], NOW, POLICY).kind is VerdictKind.PASS, "two errors may be anything"


def test_a_release_that_fails_8_percent_is_found_within_three_seconds():
    """v1.3.2-late-5xx, at 400 requests a second after half a minute without an error."""
    deltas = [TrafficDelta(NOW + second, 400, 0) for second in range(30)]
    for after in range(1, 4):
        at = NOW + 29 + after
        deltas.append(TrafficDelta(at, 400, 32))
        if judge_errors(deltas, at, POLICY).kind is VerdictKind.FAIL:
            return
    pytest.fail("8 % of failed requests were not found within 3 s")


def test_four_percent_never_trigger_in_five_minutes():
    noise = random.Random(7)
    deltas: list[TrafficDelta] = []
    for second in range(300):
        errors = sum(noise.random() < 0.04 for _ in range(300))
        deltas.append(TrafficDelta(NOW + second, 300, errors))
        verdict = judge_errors(deltas[-120:], NOW + second, POLICY)
        assert verdict.kind is VerdictKind.PASS, f"after {second} s: {verdict.reason}"


@pytest.mark.parametrize(
    ("latency", "kind"),
    [
        (LatencyObservation(5.0, 1000, 1), VerdictKind.PASS),  # exactly 5 s does not exceed 5 s
        (LatencyObservation(5.01, 1000, 1), VerdictKind.FAIL),
        (LatencyObservation(9.0, 1000, 31), VerdictKind.NO_DATA),  # stale, however bad
        (LatencyObservation(0.1, 19, 1), VerdictKind.NO_DATA),  # too few for a 95th percentile
        (None, VerdictKind.NO_DATA),
    ],
)
def test_the_response_time(latency, kind):
    verdict = judge_latency(latency, POLICY)
    assert verdict.kind is kind, verdict.reason


@pytest.mark.parametrize(
    ("changes", "kind", "trigger"),
    [
        ({"servers_down": ("app1 at lb1 (DOWN)",)}, VerdictKind.FAIL, Trigger.HEALTH),
        ({"servers_down": None}, VerdictKind.NO_DATA, None),
        ({"latency": None}, VerdictKind.NO_DATA, None),
        ({"alerts": None}, VerdictKind.NO_DATA, None),
        ({"problems": ("lb2: no answer",)}, VerdictKind.NO_DATA, None),
        ({"deltas": steady(100, 50)}, VerdictKind.FAIL, Trigger.ERROR_RATIO),
        # What is known to be bad decides, whatever else is missing.
        ({"deltas": steady(100, 50), "latency": None, "alerts": None}, VerdictKind.FAIL, Trigger.ERROR_RATIO),
    ],
)
def test_failure_decides_before_missing_data(changes, kind, trigger):
    verdict = judge(observed(**changes), POLICY, SWITCHED_AT)
    assert (verdict.kind, verdict.trigger) == (kind, trigger), verdict.reason


@pytest.mark.parametrize(("seconds", "kind"), [(-1, VerdictKind.PASS), (0, VerdictKind.FAIL), (5, VerdictKind.FAIL)])
def test_an_alert_counts_when_its_cause_began_after_the_switch(seconds, kind):
    alert = AlertObservation("HighErrorRate", SWITCHED_AT + timedelta(seconds=seconds))
    assert judge(observed(alerts=(alert,)), POLICY, SWITCHED_AT).kind is kind


def test_without_prometheus_health_and_errors_decide():
    policy = JudgePolicy(metrics_expected=False)
    assert judge(observed(latency=None, alerts=None), policy, SWITCHED_AT).kind is VerdictKind.PASS


@given(st.integers(0, 500), st.integers(0, 500))
@example(0, 195)
def test_the_lower_bound_never_exceeds_the_ratio(errors, more):
    total = errors + more
    bound = wilson_lower_bound(errors, total)
    assert 0 <= bound <= (errors / total if total else 0) + 1e-12


KINDS = st.sampled_from([VerdictKind.PASS, VerdictKind.NO_DATA])


@given(st.lists(st.tuples(KINDS, st.floats(0.1, 4.0)), max_size=60))
def test_time_without_data_never_counts_as_watched(steps):
    """When a bake is over, it was judged good for at least as long as it was to last."""
    clock = BakeClock(bake_seconds=20.0, hold_timeout_seconds=1000, last_judged_at=0.0)
    now = watched = 0.0
    for kind, passed in steps:
        now += passed
        clock.advance(kind, now)
        watched += passed if kind is VerdictKind.PASS else 0
        if clock.is_over:
            assert kind is VerdictKind.PASS, "a bake ended while data was missing"
            assert watched >= 20.0 - 1e-6, f"over after {watched} s of 20 s watched"


@given(st.floats(1, 600), st.floats(0.5, 5))
def test_missing_data_is_undone_after_the_hold_timeout_and_not_before(timeout, step):
    clock = BakeClock(bake_seconds=10.0, hold_timeout_seconds=timeout, last_judged_at=0.0)
    now = 0.0
    while not clock.must_undo(now):
        now += step
        clock.advance(VerdictKind.NO_DATA, now)
        assert now <= timeout + 2 * step + 1e-6, "missing data was held for longer than the timeout"
    assert clock.held_seconds(now) >= timeout


def test_data_that_comes_back_ends_the_hold():
    clock = BakeClock(bake_seconds=10.0, hold_timeout_seconds=5, last_judged_at=0.0)
    clock.advance(VerdictKind.NO_DATA, 4.0)
    clock.advance(VerdictKind.PASS, 6.0)
    clock.advance(VerdictKind.NO_DATA, 8.0)
    assert not clock.must_undo(12.0)


def test_the_gap_of_a_killed_worker_is_time_without_data():
    clock = BakeClock(bake_seconds=30.0, hold_timeout_seconds=300, last_judged_at=5.0, watched_seconds=10.0)
    clock.advance(VerdictKind.PASS, 40.0)
    assert clock.watched_seconds == 10.0
    ends = []
    for second in range(20):
        ends.append(clock.is_over)
        clock.advance(VerdictKind.PASS, 41.0 + second)
    assert not any(ends), "it was over before 30 s were watched"
    assert clock.is_over
    assert clock.judgements == 21


def test_a_clock_that_is_set_back_brings_the_end_no_nearer():
    clock = BakeClock(bake_seconds=10.0, hold_timeout_seconds=300, last_judged_at=100.0)
    clock.advance(VerdictKind.PASS, 40.0)
    assert clock.watched_seconds == 0.0
    clock.advance(VerdictKind.PASS, 41.0)
    assert clock.watched_seconds == 1.0


COUNTED = st.tuples(st.integers(0, 300), st.integers(0, 300), st.one_of(st.none(), st.integers(0, 300)))


@given(st.lists(COUNTED, max_size=40))
@example([(0, 3, None)])
@example([(99, 103, None)])
@example([(0, 3, 0)])
def test_counters_that_end_later_than_they_begin_never_break_the_judge(seconds):
    """Errors count when they are answered and requests when they come: any of the numbers may be the largest."""
    deltas = [TrafficDelta(NOW - len(seconds) + n, *counted) for n, counted in enumerate(seconds)]
    verdict = judge_errors(deltas, NOW, POLICY)
    assert verdict.kind in VerdictKind
    assert verdict.trigger in (None, Trigger.ERROR_RATIO)


@pytest.mark.parametrize("delta", [TrafficDelta(NOW - 0.5, 0, 3), TrafficDelta(NOW - 0.5, 99, 103)])
def test_more_errors_than_requests_are_a_failure(delta):
    assert judge_errors([delta], NOW, POLICY).kind is VerdictKind.FAIL


def test_a_slow_release_is_judged_by_its_answers():
    """It answers after eight seconds, and traffic has become less since: 4 % of the answers fail, not 40 %."""
    deltas = [TrafficDelta(NOW - second, 10, 4, 100) for second in reversed(range(60))]
    assert judge_errors(deltas, NOW, POLICY).kind is VerdictKind.PASS


def test_requests_of_which_none_is_answered_are_no_data():
    verdict = judge_errors([TrafficDelta(NOW - second, 50, 0, 0) for second in reversed(range(10))], NOW, POLICY)
    assert verdict.kind is VerdictKind.NO_DATA
    assert "none of 500 requests" in verdict.reason


@pytest.mark.parametrize(
    ("highest_bucket", "limit", "kind"),
    [
        (10.0, 5.0, VerdictKind.FAIL),
        (5.0, 5.0, VerdictKind.FAIL),  # more than 5 s exceeds 5 s
        (2.0, 5.0, VerdictKind.NO_DATA),  # somewhere above 2 s
    ],
)
def test_a_response_time_above_the_highest_bucket_never_passes(highest_bucket, limit, kind):
    latency = LatencyObservation(highest_bucket, 1000, 1, is_lower_bound=True)
    verdict = judge_latency(latency, JudgePolicy(response_time_threshold_seconds=limit))
    assert verdict.kind is kind
    assert f"more than {highest_bucket:g} s" in verdict.reason
