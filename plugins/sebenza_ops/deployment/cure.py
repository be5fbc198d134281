"""Judging a release that is deployed as the cure of an unwell environment: by thresholds, and by what was before it.

Pure rules. An environment that was unwell before a change is not the change's fault: where the old release was beyond a
threshold already, the new one must be clearly better, and where it was not, the new one must not be clearly worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sebenza_ops.deployment.judge import (
    JudgePolicy,
    LatencyObservation,
    Observation,
    TrafficDelta,
    Trigger,
    Verdict,
    VerdictKind,
    combine,
    judge_each,
    wilson_lower_bound,
)
from sebenza_ops.evidence.facts import FiguresFact

# Both error ratios are compared over this time, the shorter of the judge's long windows.
COMPARED_SECONDS: Final = 30.0
# A response time is a clear improvement below this share of the one before, and a clear regression above this multiple.
# Ours: buckets of a histogram are a factor of two apart, so that smaller differences may be none.
BETTER_SHARE: Final = 0.8
WORSE_FACTOR: Final = 2.0
# A regression of the response time is one from this share of the threshold on; below it nobody notices.
NOTICED_SHARE: Final = 0.2


def judge_cure(observation: Observation, policy: JudgePolicy, switched_at: datetime, before: FiguresFact) -> Verdict:
    """The verdict over a cure; NO_CURE is the trigger when it is no better than what it was to cure.

    Args:
        observation: What was observed of the new release.
        policy: The thresholds.
        switched_at: The moment of the change.
        before: How the old release did before it.
    """
    verdicts = judge_each(observation, policy, switched_at)
    verdicts[Trigger.ERROR_RATIO] = _errors(
        verdicts[Trigger.ERROR_RATIO], observation.deltas, observation.at, before, policy
    )
    if Trigger.RESPONSE_TIME in verdicts and observation.latency is not None:
        verdicts[Trigger.RESPONSE_TIME] = _latency(verdicts[Trigger.RESPONSE_TIME], observation.latency, before, policy)
    return combine(verdicts.values(), observation.problems)


def _errors(
    verdict: Verdict, deltas: Sequence[TrafficDelta], now: float, before: FiguresFact, policy: JudgePolicy
) -> Verdict:
    inside = [delta for delta in deltas if delta.at > now - COMPARED_SECONDS]
    ended, errors = sum(delta.ended for delta in inside), sum(delta.errors for delta in inside)
    if before.error_ratio is None or not ended:
        return verdict
    then = f"before the change it was {before.error_ratio:.1%}"
    if Trigger.ERROR_RATIO in before.exceeded and verdict.kind is VerdictKind.FAIL:
        # The upper bound of the failures is what the lower one of the good answers leaves.
        if 1 - wilson_lower_bound(ended - errors, ended) < before.error_ratio:
            return Verdict(VerdictKind.PASS, f"better, not good: {verdict.reason}; {then}")
        return Verdict(VerdictKind.FAIL, f"no cure: {verdict.reason}; {then}", Trigger.NO_CURE)
    if Trigger.ERROR_RATIO not in before.exceeded and verdict.kind is VerdictKind.PASS:
        most_before = 1 - wilson_lower_bound(before.answers - before.errors, before.answers)
        if ended >= policy.minimum_requests and wilson_lower_bound(errors, ended) > most_before:
            reason = f"{errors} of {ended} requests failed, which is worse: {then}"
            return Verdict(VerdictKind.FAIL, reason, Trigger.ERROR_RATIO)
    return verdict


def _latency(verdict: Verdict, latency: LatencyObservation, before: FiguresFact, policy: JudgePolicy) -> Verdict:
    if before.p95_seconds is None:
        return verdict
    then = f"before the change it was {'more than ' if before.p95_is_lower_bound else ''}{before.p95_seconds:.2f} s"
    if Trigger.RESPONSE_TIME in before.exceeded and verdict.kind is VerdictKind.FAIL:
        if not latency.is_lower_bound and latency.p95_seconds < BETTER_SHARE * before.p95_seconds:
            return Verdict(VerdictKind.PASS, f"better, not good: {verdict.reason}; {then}")
        return Verdict(VerdictKind.FAIL, f"no cure: {verdict.reason}; {then}", Trigger.NO_CURE)
    noticed = max(WORSE_FACTOR * before.p95_seconds, NOTICED_SHARE * policy.response_time_threshold_seconds)
    was_well = Trigger.RESPONSE_TIME not in before.exceeded and not before.p95_is_lower_bound
    if was_well and verdict.kind is VerdictKind.PASS and latency.p95_seconds > noticed:
        reason = f"95th percentile of the response time is {latency.shown}, which is worse: {then}"
        return Verdict(VerdictKind.FAIL, reason, Trigger.RESPONSE_TIME)
    return verdict
