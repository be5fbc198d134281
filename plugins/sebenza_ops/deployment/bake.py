"""Watching a release after traffic reached it, about once a second, until it has passed or must be undone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.judge import BakeClock, JudgePolicy, Trigger, Verdict, VerdictKind, judge
from sebenza_ops.deployment.observe import MetricsObserver, TrafficHistory, observation
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.proof import send_synthetic_requests
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import TrafficControl
from sebenza_ops.environments.models import BlueGreenPolicy
from sebenza_ops.evidence.facts import Fact, JudgementFact

log = logging.getLogger(__name__)

SAVE_EVERY_SECONDS = 3.0


@dataclass(frozen=True)
class BakeDecision:
    """How a bake ended. `requests` and `errors` are the new color's, on all load balancers."""

    passed: bool
    reason: str
    trigger: Trigger | None
    requests: int
    errors: int


class Bake:
    """One bake. Killed and started again it goes on; the time in between counts as time without data.

    Args:
        run: The run's hold on the environment.
        plan: The deployment's plan.
        policy: The numbers to judge by.
        control: The load balancers.
        progress: What survives a kill.
        history: The load balancers' traffic so far.
        keep_switched: Called with the load balancers' states at every judgement, to mend one that lost the switch.
    """

    def __init__(
        self,
        run: ChangeRun,
        plan: DeploymentPlan,
        policy: BlueGreenPolicy,
        control: TrafficControl,
        progress: Progress,
        history: TrafficHistory,
        keep_switched: Callable[[LoadBalancerStates], None],
    ) -> None:
        self._run, self._plan, self._policy = run, plan, policy
        self._control, self._progress, self._keep_switched = control, progress, keep_switched
        environment = run.environment
        now = time.time()
        self._switched_at = datetime.fromtimestamp(progress.number("switched_at", now), UTC)
        self._clock = BakeClock(
            bake_until=progress.number("bake_until", now + plan.bake_seconds),
            hold_timeout_seconds=policy.hold_timeout_seconds,
            last_judged_at=progress.number("last_judged_at", now),
            hold_since=progress.optional_number("hold_since"),
        )
        self._judge_policy = JudgePolicy(
            error_ratio_threshold=policy.error_ratio_threshold,
            response_time_threshold_seconds=policy.response_time_threshold_seconds,
            minimum_requests=policy.minimum_requests,
            stale_after_seconds=max(5.0, 3 * environment.monitoring.scrape_interval_seconds),
            metrics_expected=environment.monitoring.prometheus_conn_id is not None,
        )
        self._history = history
        self._requests = int(progress.number("requests", 0))
        self._errors = int(progress.number("errors", 0))
        self._hold_told = False
        self._last_kind: VerdictKind | None = None
        self._unsaved: list[Fact] = []
        self._saved_at = time.monotonic()

    def run(self) -> BakeDecision:
        """Judge until it is decided. Raises what `keep_switched` raises, FencedOffError above all."""
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
            return self._decide(False, verdict.reason, verdict.trigger)
        if verdict.kind is VerdictKind.NO_DATA:
            self._tell_hold(verdict, now)
            if self._clock.must_undo(now):
                reason = f"no data for {self._clock.held_seconds(now):.0f} s: {verdict.reason}"
                return self._decide(False, reason, Trigger.HOLD_TIMEOUT)
        if self._clock.is_over(now):
            return self._decide(True, verdict.reason, None)
        if time.monotonic() - self._saved_at >= SAVE_EVERY_SECONDS:
            self._save()
        return None

    def _judge(self, metrics: MetricsObserver) -> Verdict:
        environment, color = self._run.environment, self._plan.to_color
        if self._policy.traffic == "synthetic":
            send_synthetic_requests(environment)
        # A load balancer that takes longer has no data at this moment, and does not keep the others from being judged.
        states = self._control.states(max(1.5, self._policy.judge_interval_seconds))
        self._keep_switched(states)
        now = time.time()
        samples = self._history.add(states, color, now)
        seen = metrics.observe(self._policy.judge_interval_seconds / 2)
        verdict = judge(
            observation(environment, color, states, self._history, seen), self._judge_policy, self._switched_at
        )
        newest = self._history.deltas[-1]
        self._requests += newest.requests
        self._errors += newest.errors
        self._unsaved += [*samples, seen.sample(color, now)]
        if verdict.kind is not self._last_kind:
            log.info("%s: %s", verdict.kind, verdict.reason)
            self._unsaved.append(
                JudgementFact(
                    at=datetime.fromtimestamp(now, UTC),
                    verdict=verdict.kind.value,
                    trigger=verdict.trigger.value if verdict.trigger else None,
                    reason=verdict.reason,
                )
            )
            self._last_kind = verdict.kind
        return verdict

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

    def _decide(self, passed: bool, reason: str, trigger: Trigger | None) -> BakeDecision:
        return BakeDecision(passed, reason, trigger, self._requests, self._errors)

    def _save(self) -> None:
        self._run.record(self._unsaved)
        self._unsaved = []
        self._progress.save(
            bake_until=self._clock.bake_until,
            last_judged_at=self._clock.last_judged_at,
            hold_since=self._clock.hold_since,
            requests=self._requests,
            errors=self._errors,
        )
        self._saved_at = time.monotonic()
