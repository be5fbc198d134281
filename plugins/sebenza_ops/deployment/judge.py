"""The four rollback triggers of the manual, as pure rules over what was observed since the switch.

Manual, Rollback Procedures, Automatic Rollback Triggers: health check failures, error rate exceeding 5%, response time
exceeding 5 seconds, critical system alerts. An error *rate* of 5% is a ratio of requests; "exceeding" means that
exactly 5% and exactly 5 s pass. Whatever can't be observed is a third verdict (design, rule 2).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

# Short windows see a bad release early but hold few requests, so there the lower bound of the ratio's confidence
# interval must exceed the threshold; over the long ones the plain ratio decides, once they are full.
SHORT_WINDOWS_SECONDS = (2.0, 3.0, 5.0, 10.0)
LONG_WINDOWS_SECONDS = (30.0, 60.0)
# One-sided 99 %. A bake looks hundreds of times: at 95 % every third release with a steady 4 % was undone by chance
# (simulated, 350 requests/s for 5 minutes); at 99 % one in 25, and 8 % is still found within 3 s.
CONFIDENCE_Z = 2.326
# With fewer requests than the policy's minimum, a ratio counts from so many errors on: one or two may be anything.
MINIMUM_ERRORS = 3
# Without a single request for so long, a color that should have traffic has none.
TRAFFIC_SILENCE_SECONDS = 10.0
# A 95th percentile of fewer than 1 / (1 - 0.95) values is their maximum.
MINIMUM_LATENCY_REQUESTS = 20


class VerdictKind(StrEnum):
    """What a judgement can say."""

    PASS = "pass"
    FAIL = "fail"
    NO_DATA = "no_data"


class Trigger(StrEnum):
    """The manual's automatic rollback triggers, and what else undoes a change: too long without data, and a release
    that was deployed as the cure of an unwell environment and is none.
    """

    HEALTH = "health_check_failures"
    ERROR_RATIO = "error_ratio"
    RESPONSE_TIME = "response_time"
    CRITICAL_ALERT = "critical_alert"
    HOLD_TIMEOUT = "hold_timeout"
    NO_CURE = "no_cure"

    @property
    def blames_release(self) -> bool:
        """Whether it says that the release itself is bad."""
        return self not in (Trigger.HOLD_TIMEOUT, Trigger.NO_CURE)


@dataclass(frozen=True)
class Verdict:
    """A judgement with its reason; `trigger` is set when it is a failure."""

    kind: VerdictKind
    reason: str
    trigger: Trigger | None = None


@dataclass(frozen=True)
class TrafficDelta:
    """What the judged color got on all load balancers, in the time that ended at `at` (epoch).

    Requests count when they begin and answers when they end, so that a slow release is answered for later than it was
    asked: errors are a share of the answers. Where answers are not counted (None) the requests stand for them.
    """

    at: float
    requests: int
    errors: int
    answers: int | None = None

    @property
    def ended(self) -> int:
        """Requests that came to an end, of which `errors` failed; never fewer than these."""
        return max(self.requests if self.answers is None else self.answers, self.errors)


@dataclass(frozen=True)
class LatencyObservation:
    """The 95th percentile of the judged color's response time, over how many requests, and the newest sample's age.

    With `is_lower_bound` it lies above the highest bucket of the histogram, whose bound `p95_seconds` then is.
    """

    p95_seconds: float
    requests: float
    age_seconds: float
    is_lower_bound: bool = False

    @property
    def shown(self) -> str:
        """The percentile in words: "0.25 s", "more than 10 s"."""
        return f"more than {self.p95_seconds:g} s" if self.is_lower_bound else f"{self.p95_seconds:.2f} s"


@dataclass(frozen=True)
class AlertObservation:
    """A critical alert that fires for this environment, and since when its condition is true."""

    name: str
    active_since: datetime
    summary: str = ""


@dataclass(frozen=True)
class Observation:
    """Everything observed at one moment of a bake. None means that it could not be observed; `problems` says why."""

    at: float
    deltas: Sequence[TrafficDelta]
    servers_down: Sequence[str] | None
    latency: LatencyObservation | None
    alerts: Sequence[AlertObservation] | None
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class JudgePolicy:
    """The numbers that a bake is judged by; see BlueGreenPolicy for their sources.

    `metrics_expected` is False for an environment without Prometheus: there, health and errors alone decide.
    """

    error_ratio_threshold: float = 0.05
    response_time_threshold_seconds: float = 5.0
    minimum_requests: int = 50
    stale_after_seconds: float = 30.0
    metrics_expected: bool = True


def wilson_lower_bound(events: int, total: int, z: float = CONFIDENCE_Z) -> float:
    """Lower bound of the Wilson score interval of a ratio (Wilson 1927, JASA 22:209-212); 0 for no trials."""
    if total == 0:
        return 0.0
    ratio = events / total
    spread = z * math.sqrt(ratio * (1 - ratio) / total + z * z / (4 * total * total))
    # Without events the two halves are equal, but for the last bit.
    return max(0.0, (ratio + z * z / (2 * total) - spread) / (1 + z * z / total))


def judge_errors(deltas: Sequence[TrafficDelta], now: float, policy: JudgePolicy) -> Verdict:
    """Whether the ratio of 5xx answers to all answers exceeds the threshold in any window that ends now.

    A window with fewer answers than `minimum_requests` is judged by the bound alone, and only if it has MINIMUM_ERRORS.
    Requests of which none is answered are no data.
    """
    threshold = policy.error_ratio_threshold
    for window in (*SHORT_WINDOWS_SECONDS, *LONG_WINDOWS_SECONDS):
        inside = [delta for delta in deltas if delta.at > now - window]
        ended, errors = sum(d.ended for d in inside), sum(d.errors for d in inside)
        is_thin = ended < policy.minimum_requests
        if is_thin and errors < MINIMUM_ERRORS:
            continue
        ratio = errors / ended
        # Before its time has passed, a long window holds no more than a short one.
        is_decided = not is_thin and window in LONG_WINDOWS_SECONDS and deltas[0].at <= now - window
        shown = ratio if is_decided else wilson_lower_bound(errors, ended)
        if shown > threshold:
            reason = f"{errors} of {ended} requests in {window:g} s failed ({ratio:.1%}, more than {threshold:.0%})"
            return Verdict(VerdictKind.FAIL, reason, Trigger.ERROR_RATIO)
    recent = [delta for delta in deltas if delta.at > now - TRAFFIC_SILENCE_SECONDS]
    requests, ended = sum(delta.requests for delta in recent), sum(delta.ended for delta in recent)
    if requests == ended == 0:
        return Verdict(VerdictKind.NO_DATA, f"no request came in {TRAFFIC_SILENCE_SECONDS:g} s")
    if ended == 0:
        reason = f"none of {requests} requests in {TRAFFIC_SILENCE_SECONDS:g} s was answered"
        return Verdict(VerdictKind.NO_DATA, reason)
    return Verdict(VerdictKind.PASS, f"{requests} requests in {TRAFFIC_SILENCE_SECONDS:g} s")


def judge_latency(latency: LatencyObservation | None, policy: JudgePolicy) -> Verdict:
    """Whether the 95th percentile of the response time exceeds the threshold."""
    if latency is None:
        return Verdict(VerdictKind.NO_DATA, "Prometheus has no response times of the release")
    if not latency.age_seconds <= policy.stale_after_seconds:
        reason = f"the newest response times in Prometheus are {latency.age_seconds:.0f} s old"
        return Verdict(VerdictKind.NO_DATA, reason)
    # Written so that NaN, which compares with nothing, is no data as well.
    if not latency.requests >= MINIMUM_LATENCY_REQUESTS:
        reason = f"response times of only {latency.requests:.0f} requests are no basis for a 95th percentile"
        return Verdict(VerdictKind.NO_DATA, reason)
    if math.isnan(latency.p95_seconds):
        return Verdict(VerdictKind.NO_DATA, "the 95th percentile of the response time is no number")
    limit = policy.response_time_threshold_seconds
    if latency.p95_seconds > limit or (latency.is_lower_bound and latency.p95_seconds == limit):
        shown = latency.shown if latency.is_lower_bound else f"{latency.p95_seconds:.1f} s, more than {limit:g} s"
        return Verdict(VerdictKind.FAIL, f"95th percentile of the response time is {shown}", Trigger.RESPONSE_TIME)
    if latency.is_lower_bound:
        reason = (
            f"95th percentile of the response time is {latency.shown}, the highest bucket: whether it exceeds "
            f"{limit:g} s can't be told"
        )
        return Verdict(VerdictKind.NO_DATA, reason)
    return Verdict(VerdictKind.PASS, f"p95 {latency.shown}")


def judge_health(servers_down: Sequence[str] | None) -> Verdict:
    """Whether a load balancer's health checks fail for a server of the new color."""
    if servers_down is None:
        return Verdict(VerdictKind.NO_DATA, "no load balancer tells its servers' health")
    if servers_down:
        return Verdict(VerdictKind.FAIL, f"health checks fail: {', '.join(servers_down)}", Trigger.HEALTH)
    return Verdict(VerdictKind.PASS, "health checks pass")


def judge_alerts(alerts: Sequence[AlertObservation] | None, switched_at: datetime) -> Verdict:
    """Whether a critical alert fires whose cause began after the switch; an older one is not this release's."""
    if alerts is None:
        return Verdict(VerdictKind.NO_DATA, "Prometheus does not tell which alerts fire")
    new = [alert for alert in alerts if alert.active_since >= switched_at]
    if new:
        names = ", ".join(f"{alert.name} ({alert.summary})" if alert.summary else alert.name for alert in new)
        return Verdict(VerdictKind.FAIL, f"critical alert: {names}", Trigger.CRITICAL_ALERT)
    return Verdict(VerdictKind.PASS, "no new critical alert")


def judge_each(observation: Observation, policy: JudgePolicy, switched_at: datetime) -> dict[Trigger, Verdict]:
    """The verdict of each of the manual's triggers, as far as the environment can be observed at all."""
    verdicts = {
        Trigger.HEALTH: judge_health(observation.servers_down),
        Trigger.ERROR_RATIO: judge_errors(observation.deltas, observation.at, policy),
    }
    if policy.metrics_expected:
        verdicts[Trigger.RESPONSE_TIME] = judge_latency(observation.latency, policy)
        verdicts[Trigger.CRITICAL_ALERT] = judge_alerts(observation.alerts, switched_at)
    return verdicts


def combine(verdicts: Iterable[Verdict], problems: Sequence[str] = ()) -> Verdict:
    """One verdict of several: any failure decides, then any missing data, else it passes.

    Args:
        verdicts: The verdicts.
        problems: What else could not be observed, in words.
    """
    verdicts = list(verdicts)
    failed = [verdict for verdict in verdicts if verdict.kind is VerdictKind.FAIL]
    if failed:
        # What blames the release decides over what does not.
        first = min(failed, key=lambda verdict: verdict.trigger is not None and not verdict.trigger.blames_release)
        return Verdict(VerdictKind.FAIL, "; ".join(v.reason for v in failed), first.trigger)
    missing = [verdict.reason for verdict in verdicts if verdict.kind is VerdictKind.NO_DATA]
    missing += list(problems)
    if missing:
        return Verdict(VerdictKind.NO_DATA, "; ".join(missing))
    return Verdict(VerdictKind.PASS, ", ".join(verdict.reason for verdict in verdicts))


def judge(observation: Observation, policy: JudgePolicy, switched_at: datetime) -> Verdict:
    """The verdict over everything observed."""
    return combine(judge_each(observation, policy, switched_at).values(), observation.problems)


@dataclass
class BakeClock:
    """How long a release was watched. Time without data does not count, and too much of it in one piece ends the bake.

    Args:
        bake_seconds: It is to be watched for so long.
        hold_timeout_seconds: After so long without data the change is undone.
        last_judged_at: The last judgement, or the moment from which on it is watched, in epoch seconds.
        watched_seconds: For how long it was watched so far; the gap of a killed worker does not count.
        judgements: How often it was judged so far.
        hold_since: Since when data lacks, in epoch seconds; None while it does not.
    """

    bake_seconds: float
    hold_timeout_seconds: float
    last_judged_at: float
    watched_seconds: float = 0.0
    judgements: int = 0
    hold_since: float | None = None

    MAXIMUM_GAP_SECONDS = 5.0
    # Sums of seconds that end in a binary fraction miss the whole by less.
    ROUNDING_SECONDS = 1e-6

    def advance(self, kind: VerdictKind, now: float) -> None:
        """Take a judgement of this moment into account."""
        # A clock that was set back must not bring the end nearer.
        gap = max(now - self.last_judged_at, 0.0)
        self.judgements += 1
        if kind is VerdictKind.NO_DATA:
            if self.hold_since is None:
                self.hold_since = now
        else:
            self.hold_since = None
            if gap <= self.MAXIMUM_GAP_SECONDS:
                self.watched_seconds += gap
        self.last_judged_at = now

    def held_seconds(self, now: float) -> float:
        """For how long data has been missing without a break."""
        return 0.0 if self.hold_since is None else now - self.hold_since

    def must_undo(self, now: float) -> bool:
        """Whether data has been missing for too long."""
        return self.hold_since is not None and self.held_seconds(now) >= self.hold_timeout_seconds

    @property
    def is_over(self) -> bool:
        """Whether the release was watched for long enough, and is watched now."""
        return self.hold_since is None and self.watched_seconds >= self.bake_seconds - self.ROUNDING_SECONDS
