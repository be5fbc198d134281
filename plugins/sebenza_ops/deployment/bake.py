"""Watching a release after traffic reached it, about once a second, until it has passed or must be undone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.baseline import figures_before
from sebenza_ops.deployment.cure import judge_cure
from sebenza_ops.deployment.judge import BakeClock, Observation, Trigger, Verdict, VerdictKind, judge
from sebenza_ops.deployment.observe import (
    MetricsObservation,
    MetricsObserver,
    TrafficHistory,
    judge_policy,
    observation,
)
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.proof import send_synthetic_requests
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import TrafficControl
from sebenza_ops.environments.models import BlueGreenPolicy
from sebenza_ops.evidence.facts import Fact, FiguresFact, JudgementFact

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 3.0
# What was seen of the traffic, kept over kills.
HISTORY = "history"


@dataclass(frozen=True)
class BakeDecision:
    """How a bake ended.

    `requests` and `errors` are the new color's, on all load balancers; `watched_seconds` and `judgements` say for how
    long and how often it was judged.
    """

    passed: bool
    reason: str
    trigger: Trigger | None
    requests: int
    errors: int
    watched_seconds: float = 0.0
    judgements: int = 0

    @property
    def text(self) -> str:
        """What was watched, in words."""
        return (
            f"watched for {self.watched_seconds:.0f} s, judged {self.judgements} times: {self.requests} requests, "
            f"{self.errors} failed"
        )


def fresh_clock(now: float) -> dict[str, object]:
    """What to keep as progress where a new time of watching begins at `now` (epoch)."""
    return {
        "watched_seconds": 0.0,
        "judgements": 0,
        "last_judged_at": now,
        "hold_since": None,
    }


class Bake:
    """One bake. Killed and started again it goes on with what was seen; the time in between does not count as watched.

    Args:
        run: The run's hold on the environment.
        plan: The deployment's plan.
        policy: The numbers to judge by.
        control: The load balancers.
        progress: What survives a kill.
        history: The load balancers' traffic so far.
        seconds: The release is to be watched for so long.
        look_after: Called with the load balancers' states at every judgement, to fix what has changed under it; returns
            what is not known meanwhile, in words.
    """

    def __init__(
        self,
        run: ChangeRun,
        plan: DeploymentPlan,
        policy: BlueGreenPolicy,
        control: TrafficControl,
        progress: Progress,
        history: TrafficHistory,
        seconds: float,
        look_after: Callable[[LoadBalancerStates], Sequence[str]],
    ) -> None:
        self._run, self._plan, self._policy = run, plan, policy
        self._control, self._progress, self._look_after = control, progress, look_after
        environment = run.environment
        now = time.time()
        self._switched_at = datetime.fromtimestamp(progress.number("switched_at", now), UTC)
        self._clock = BakeClock(
            bake_seconds=seconds,
            hold_timeout_seconds=policy.hold_timeout_seconds,
            last_judged_at=progress.number("last_judged_at", now),
            watched_seconds=progress.number("watched_seconds", 0.0),
            judgements=int(progress.number("judgements", 0)),
            hold_since=progress.optional_number("hold_since"),
        )
        self._judge_policy = judge_policy(environment, policy)
        self._before = figures_before(progress) if plan.cure_reason else None
        self._history = history
        if not history.deltas:
            history.restore(progress.values(HISTORY))
        self._requests = int(progress.number("requests", 0))
        self._answers = int(progress.number("answers", 0))
        self._errors = int(progress.number("errors", 0))
        self._hold_told = False
        self._last_kind: VerdictKind | None = None
        self._seen = MetricsObservation(None, None)
        self._unsaved: list[Fact] = []
        self._saved_at = time.monotonic()

    def run(self) -> BakeDecision:
        """Judge until it is decided. Raises what `look_after` raises, FencedOffError above all."""
        metrics = MetricsObserver(self._run.environment, self._plan.to_color, self._plan.release.release_id)
        try:
            while True:
                began = time.monotonic()
                decision = self._step(metrics)
                if decision is not None:
                    return decision
                time.sleep(max(0.0, self._policy.judge_interval_seconds - (time.monotonic() - began)))
        finally:
            metrics.close()
            self._save()

    def _step(self, metrics: MetricsObserver) -> BakeDecision | None:
        verdict = self._judge(metrics)
        now = time.time()
        self._clock.advance(verdict.kind, now)
        if verdict.kind is VerdictKind.FAIL:
            return self._decide(False, verdict, verdict.trigger)
        if verdict.kind is VerdictKind.NO_DATA:
            self._tell_hold(verdict, now)
            if self._clock.must_undo(now):
                reason = f"no data for {self._clock.held_seconds(now):.0f} s: {verdict.reason}"
                return self._decide(False, Verdict(verdict.kind, reason), Trigger.HOLD_TIMEOUT)
        if self._clock.is_over:
            return self._decide(True, verdict, None)
        if time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS:
            self._save()
        return None

    def _judge(self, metrics: MetricsObserver) -> Verdict:
        environment, color = self._run.environment, self._plan.to_color
        if self._policy.traffic == "synthetic":
            send_synthetic_requests(environment)
        # A load balancer that takes longer has no data at this moment, and does not keep the others from being judged.
        states = self._control.states(max(1.5, self._policy.judge_interval_seconds))
        doubts = self._look_after(states)
        now = time.time()
        samples = self._history.add(states, color, now)
        self._seen = metrics.observe(self._policy.judge_interval_seconds / 2)
        verdict = self._verdict(observation(environment, color, states, self._history, self._seen, doubts))
        newest = self._history.deltas[-1]
        self._requests += newest.requests
        self._answers += newest.ended
        self._errors += newest.errors
        self._unsaved += [*samples, self._seen.sample(color, now)]
        self._unsaved.append(
            JudgementFact(
                at=datetime.fromtimestamp(now, UTC),
                verdict=verdict.kind.value,
                trigger=verdict.trigger.value if verdict.trigger else None,
                reason=verdict.reason,
            )
        )
        if verdict.kind is not self._last_kind:
            log.info("%s: %s", verdict.kind, verdict.reason)
            self._last_kind = verdict.kind
        return verdict

    def _verdict(self, observed: Observation) -> Verdict:
        if self._before is not None:
            return judge_cure(observed, self._judge_policy, self._switched_at, self._before)
        return judge(observed, self._judge_policy, self._switched_at)

    def _tell_hold(self, verdict: Verdict, now: float) -> None:
        held = self._clock.held_seconds(now)
        if self._hold_told or held < self._policy.notify_hold_after_seconds:
            return
        self._hold_told = True
        left = max(self._policy.hold_timeout_seconds - held, 0)
        text = (
            f"no data to judge {self._plan.release.release_id} by for {held:.0f} s ({verdict.reason}). Traffic stays "
            f"on {self._plan.to_color}; without data for another {left:.0f} s {self._plan.way_back}"
        )
        self._run.note(text, "warning")
        self._run.tell_hold(text)

    def _decide(self, passed: bool, verdict: Verdict, trigger: Trigger | None) -> BakeDecision:
        clock = self._clock
        latency = self._seen.latency
        self._unsaved.append(
            FiguresFact(
                at=datetime.now(UTC),
                moment="after",
                color=self._plan.to_color.value,
                release_id=self._plan.release.release_id,
                watched_seconds=round(clock.watched_seconds, 1),
                judgements=clock.judgements,
                answers=self._answers,
                errors=self._errors,
                p95_seconds=latency.p95_seconds if latency is not None else None,
                p95_is_lower_bound=latency is not None and latency.is_lower_bound,
                verdict=verdict.kind.value,
                reason=verdict.reason,
                exceeded=(trigger.value,) if trigger is not None else (),
            )
        )
        return BakeDecision(
            passed, verdict.reason, trigger, self._requests, self._errors, clock.watched_seconds, clock.judgements
        )

    def _save(self) -> None:
        self._run.record(self._unsaved)
        self._unsaved = []
        self._progress.save(
            watched_seconds=self._clock.watched_seconds,
            judgements=self._clock.judgements,
            last_judged_at=self._clock.last_judged_at,
            hold_since=self._clock.hold_since,
            requests=self._requests,
            answers=self._answers,
            errors=self._errors,
            **{HISTORY: self._history.dump()},
        )
        self._saved_at = time.monotonic()
