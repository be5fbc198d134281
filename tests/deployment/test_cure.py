"""A release that is to cure an unwell environment: judged by what was before it as well."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sebenza_ops.deployment.cure import judge_cure
from sebenza_ops.deployment.judge import (
    JudgePolicy,
    LatencyObservation,
    Observation,
    TrafficDelta,
    Trigger,
    VerdictKind,
    judge,
)
from sebenza_ops.evidence.facts import FiguresFact

POLICY = JudgePolicy()
SWITCHED_AT = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NOW = SWITCHED_AT.timestamp() + 60


def before(answers: int = 1000, errors: int = 0, p95: float | None = 0.05, **fields: Any) -> FiguresFact:
    exceeded = []
    if answers and errors / answers > POLICY.error_ratio_threshold:
        exceeded.append(Trigger.ERROR_RATIO.value)
    if p95 is not None and p95 > POLICY.response_time_threshold_seconds:
        exceeded.append(Trigger.RESPONSE_TIME.value)
    values = {
        "at": SWITCHED_AT,
        "moment": "before",
        "color": "blue",
        "release_id": "v1.0.0-aaaaaaaaaaaa",
        "watched_seconds": 10.0,
        "judgements": 1,
        "answers": answers,
        "errors": errors,
        "p95_seconds": p95,
        "verdict": "fail" if exceeded else "pass",
        "exceeded": tuple(exceeded),
    }
    return FiguresFact.model_validate(values | fields)


def now(percent: int = 0, p95: float = 0.05, **changes: Any) -> Observation:
    values: dict[str, Any] = {
        "at": NOW,
        "deltas": [TrafficDelta(NOW - second, 100, percent, 100) for second in reversed(range(60))],
        "servers_down": (),
        "latency": LatencyObservation(p95, 1000, 1),
        "alerts": (),
    }
    return Observation(**(values | changes))


@pytest.mark.parametrize(
    ("was", "is_now", "kind", "trigger"),
    [
        (before(errors=500), now(0), VerdictKind.PASS, None),  # the cure
        (before(errors=500), now(20), VerdictKind.PASS, None),  # better; going back would be worse
        (before(errors=500), now(50), VerdictKind.FAIL, Trigger.NO_CURE),
        (before(errors=500), now(80), VerdictKind.FAIL, Trigger.NO_CURE),
        (before(p95=8.0), now(p95=0.3), VerdictKind.PASS, None),
        (before(p95=8.0), now(p95=6.0), VerdictKind.PASS, None),
        (before(p95=8.0), now(p95=7.9), VerdictKind.FAIL, Trigger.NO_CURE),
        # What was well must not become clearly worse, although no threshold is exceeded.
        (before(p95=8.0, errors=1), now(4, p95=0.3), VerdictKind.FAIL, Trigger.ERROR_RATIO),
        (before(errors=500, p95=0.2), now(0, p95=4.0), VerdictKind.FAIL, Trigger.RESPONSE_TIME),
        (before(errors=500, p95=0.02), now(0, p95=0.2), VerdictKind.PASS, None),  # nobody notices
        # The thresholds hold as well where the old release was within them.
        (before(p95=8.0), now(9, p95=0.3), VerdictKind.FAIL, Trigger.ERROR_RATIO),
        (before(errors=500, p95=None), now(0, p95=9.0), VerdictKind.FAIL, Trigger.RESPONSE_TIME),
    ],
)
def test_a_cure_is_judged_by_what_it_is_to_cure(was, is_now, kind, trigger):
    verdict = judge_cure(is_now, POLICY, SWITCHED_AT, was)
    assert (verdict.kind, verdict.trigger) == (kind, trigger), verdict.reason


def test_no_cure_is_no_bad_release():
    assert not Trigger.NO_CURE.blames_release
    assert not Trigger.HOLD_TIMEOUT.blames_release
    assert all(t.blames_release for t in Trigger if t not in (Trigger.NO_CURE, Trigger.HOLD_TIMEOUT))


def test_what_blames_the_release_decides_over_what_does_not():
    verdict = judge_cure(now(60, servers_down=("app1 at lb1 (DOWN)",)), POLICY, SWITCHED_AT, before(errors=500))
    assert verdict.trigger is Trigger.HEALTH
    slow = judge_cure(now(60, p95=9.0), POLICY, SWITCHED_AT, before(errors=500))
    assert slow.trigger is Trigger.RESPONSE_TIME, "the response time was well before"


def test_missing_data_holds_a_cure_as_any_release():
    verdict = judge_cure(now(0, latency=None), POLICY, SWITCHED_AT, before(errors=500))
    assert verdict.kind is VerdictKind.NO_DATA


@pytest.mark.parametrize("percent", [0, 3, 9])
def test_without_figures_of_before_the_thresholds_alone_decide(percent):
    unknown = before(answers=0, p95=None)
    expected = judge(now(percent), POLICY, SWITCHED_AT)
    found = judge_cure(now(percent), POLICY, SWITCHED_AT, unknown)
    assert (found.kind, found.trigger) == (expected.kind, expected.trigger)


def test_better_than_more_than_the_highest_bucket():
    was = before(p95=10.0, p95_is_lower_bound=True)
    assert judge_cure(now(p95=7.0), POLICY, SWITCHED_AT, was).kind is VerdictKind.PASS
    above = LatencyObservation(10.0, 1000, 1, is_lower_bound=True)
    verdict = judge_cure(now(latency=above), POLICY, SWITCHED_AT, was)
    assert verdict.trigger is Trigger.NO_CURE, verdict.reason
