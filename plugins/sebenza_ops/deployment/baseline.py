"""How the live release does before a change: an environment that is unwell already is not the change's fault.

The live color is judged by the same four triggers as a new release. It is looked at while the release is being made
ready, which costs no time of its own; what was seen is kept in the run's progress from task to task.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Final, Literal

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.judge import (
    TrafficDelta,
    Trigger,
    VerdictKind,
    combine,
    judge_alerts,
    judge_each,
    judge_errors,
    judge_health,
    judge_latency,
)
from sebenza_ops.deployment.observe import (
    MetricsObserver,
    TrafficHistory,
    critical_alerts,
    judge_policy,
    latency_window_seconds,
    observation,
    read_latency,
    servers_down,
)
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Progress
from sebenza_ops.deployment.proof import send_synthetic_requests
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.deployment.traffic import TrafficControl
from sebenza_ops.environments.models import BlueGreenPolicy, Color, Environment
from sebenza_ops.evidence.facts import FiguresFact, TrafficSample
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.prometheus import Prometheus

log = logging.getLogger(__name__)

# As the judge's longest short window: so long is looked at least.
BASELINE_SECONDS: Final = 10.0
# Beyond that, what could not be seen yet is awaited for so long.
PATIENCE_SECONDS: Final = 5.0
MINUTE_SECONDS: Final = 60.0
# What was seen longer ago is of another time: a run that was cleared, or that waited for a person.
STALE_SECONDS: Final = 60.0
LOOK_EVERY_SECONDS: Final = 1.0
# An alert that fires is beyond the trigger, however long ago its cause began.
_EVER: Final = datetime.fromtimestamp(0, UTC)
# What the run keeps: the traffic that was seen, the figures, and why they have stopped it.
SEEN, BASELINE, UNWELL = "baseline_seen", "baseline", "unwell"

HOW_TO_GO_ON: Final = "Find out why first; when this release is the cure, start a new run and say so in cure_reason."


class UnwellError(Exception):
    """The live release is beyond a rollback trigger, and nothing was moved."""


class Watch:
    """Looks at one color for a while, and judges it by the four triggers.

    Args:
        environment: The inventory's environment.
        color: The color.
        release_id: Its release; None when it is not known, and then it has no response times.
        policy: The numbers to judge by.
        control: The load balancers.
    """

    def __init__(
        self,
        environment: Environment,
        color: Color,
        release_id: str | None,
        policy: BlueGreenPolicy,
        control: TrafficControl,
    ) -> None:
        self._environment, self._color, self._release_id = environment, color, release_id
        self._policy, self._control = policy, control
        self.history = TrafficHistory(environment)
        self._judgements = 0

    def add(self, states: LoadBalancerStates) -> list[TrafficSample]:
        """Take states of the load balancers in; returns both colors' samples."""
        return self.history.add(states, self._color, time.time())

    def look(self) -> LoadBalancerStates:
        """Ask the load balancers, with requests of our own where there are no users, and take their states in."""
        if self._policy.traffic == "synthetic":
            send_synthetic_requests(self._environment)
        states = self._control.states(max(1.5, self._policy.judge_interval_seconds))
        self.add(states)
        return states

    def judge(self, moment: Literal["before", "after"]) -> FiguresFact:
        """Look on until BASELINE_SECONDS were seen, and a little longer while data is missing; what was seen.

        What can't be observed raises nothing: the verdict is "no_data" then.
        """
        metrics = MetricsObserver(self._environment, self._color, self._release_id or "")
        try:
            while True:
                began = time.monotonic()
                found = self._judge_once(metrics, moment)
                if found.watched_seconds >= BASELINE_SECONDS + (PATIENCE_SECONDS if found.verdict == "no_data" else 0):
                    return found
                time.sleep(max(0.0, self._policy.judge_interval_seconds - (time.monotonic() - began)))
        finally:
            metrics.close()

    def _judge_once(self, metrics: MetricsObserver, moment: Literal["before", "after"]) -> FiguresFact:
        states = self.look()
        seen = metrics.observe(self._policy.judge_interval_seconds)
        observed = observation(self._environment, self._color, states, self.history, seen)
        verdicts = judge_each(observed, judge_policy(self._environment, self._policy), _EVER)
        verdict = combine(verdicts.values(), observed.problems)
        deltas, latency = self.history.deltas, seen.latency
        self._judgements += 1
        return FiguresFact(
            at=datetime.fromtimestamp(observed.at, UTC),
            moment=moment,
            color=self._color.value,
            release_id=self._release_id,
            watched_seconds=deltas[-1].at - deltas[0].at,
            judgements=self._judgements,
            answers=sum(delta.ended for delta in deltas),
            errors=sum(delta.errors for delta in deltas),
            p95_seconds=latency.p95_seconds if latency is not None else None,
            p95_is_lower_bound=latency is not None and latency.is_lower_bound,
            verdict=verdict.kind.value,
            reason=verdict.reason,
            exceeded=tuple(trigger.value for trigger, one in verdicts.items() if one.kind is VerdictKind.FAIL),
        )


@contextmanager
def watched_meanwhile(run: ChangeRun, plan: DeploymentPlan) -> Iterator[None]:
    """Look at the live color in the background, and keep what was seen for `Baseline`.

    It never breaks the step that it goes beside.
    """
    policy = run.environment.policies.blue_green
    if policy is None:
        yield
        return
    stop = threading.Event()
    history: dict[str, object] = {}

    def look_on() -> None:
        try:
            with TrafficControl(run.environment) as control:
                watch = Watch(run.environment, plan.from_color, plan.from_release, policy, control)
                while True:
                    watch.look()
                    history.update(watch.history.dump())
                    if stop.wait(LOOK_EVERY_SECONDS):
                        return
        except Exception:
            # The step that it runs beside must not suffer; the switch looks for as long as it takes then.
            log.warning("the live color could not be watched meanwhile", exc_info=True)

    thread = threading.Thread(target=look_on, name="baseline", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
        if history:
            Progress(run).save(**{SEEN: dict(history)})


class Baseline:
    """The live color before a change, and whether it is well enough for one.

    Args:
        run: The run's hold on the environment.
        plan: The deployment's plan.
        policy: The numbers to judge by.
        control: The load balancers.
        progress: What the run keeps.
    """

    def __init__(
        self, run: ChangeRun, plan: DeploymentPlan, policy: BlueGreenPolicy, control: TrafficControl, progress: Progress
    ) -> None:
        self._run, self._plan, self._progress = run, plan, progress
        self._watch = Watch(run.environment, plan.from_color, plan.from_release, policy, control)
        seen = progress.values(SEEN)
        deltas = seen.get("deltas")
        if deltas and 0 <= time.time() - deltas[-1][0] <= STALE_SECONDS:
            self._watch.history.restore(seen)

    def add(self, states: LoadBalancerStates) -> None:
        """Take in what was asked of the load balancers anyway."""
        self._watch.add(states)

    def check(self) -> None:
        """Judge the live color, and keep its figures as what the new release is compared with.

        Raises UnwellError when it is beyond a trigger and nothing says that the release is the cure. Missing data is no
        reason to refuse: the release itself is not judged without.
        """
        figures = self._watch.judge("before")
        self._run.record([figures])
        self._progress.save(**{BASELINE: figures.to_payload(), UNWELL: ""})
        release = figures.release_id or "the live release"
        if figures.verdict == "pass":
            self._run.note(f"before the change {release} on {figures.color} is well: {figures.reason}")
        elif figures.verdict == "no_data":
            self._run.note(f"how {release} does before the change can't be told: {figures.reason}", "warning")
        elif self._plan.cure_reason:
            self._run.note(
                f"the environment is unwell before the change: {figures.reason}. Going on, as this release is to cure "
                f"it: {self._plan.cure_reason}",
                "warning",
            )
        else:
            reason = f"the environment is unwell before the change: {figures.reason}"
            self._progress.save(**{UNWELL: reason})
            raise UnwellError(f"{reason}. {HOW_TO_GO_ON}")


def figures_until(
    environment: Environment, color: Color, release_id: str | None, policy: BlueGreenPolicy, at: float
) -> FiguresFact:
    """How a color did in the minute that ended at `at` (epoch seconds), by Prometheus: for a change that can't wait.

    Raises OutsideSystemError when Prometheus does not answer.
    """
    conn_id = environment.monitoring.prometheus_conn_id
    if conn_id is None:
        raise NoDataError(f"{environment.name} has no Prometheus", host="prometheus")
    with closing(Prometheus(conn_id)) as prometheus:
        answers, errors = _counted(prometheus, environment, color, MINUTE_SECONDS, at)
        latency = read_latency(prometheus, environment, color, release_id or "", MINUTE_SECONDS, at)
    ratio = errors / answers if answers else 0.0
    exceeded = [Trigger.ERROR_RATIO] if ratio > policy.error_ratio_threshold else []
    slow = judge_latency(latency, judge_policy(environment, policy))
    if slow.kind is VerdictKind.FAIL:
        exceeded.append(Trigger.RESPONSE_TIME)
    kind = VerdictKind.FAIL if exceeded else VerdictKind.PASS if answers else VerdictKind.NO_DATA
    return FiguresFact(
        at=datetime.fromtimestamp(at, UTC),
        moment="before",
        color=color.value,
        release_id=release_id,
        watched_seconds=MINUTE_SECONDS,
        judgements=1,
        answers=answers,
        errors=errors,
        p95_seconds=latency.p95_seconds if latency is not None else None,
        p95_is_lower_bound=latency is not None and latency.is_lower_bound,
        verdict=kind.value,
        reason=f"{errors} of {answers} requests failed ({ratio:.1%}), {slow.reason}",
        exceeded=tuple(exceeded),
    )


def _counted(
    prometheus: Prometheus, environment: Environment, color: Color, seconds: float, at: float | None = None
) -> tuple[int, int]:
    """Answers of a color in the time until now, or `at`, and how many of them were 5xx, as the load balancers count."""
    labels = f'environment="{environment.name}",color="{color.value}"'
    counts = [
        prometheus.query(f"sum(increase(haproxy_backend_http_responses_total{{{chosen}}}[{seconds:g}s]))", at)
        for chosen in (labels, f'{labels},code="5xx"')
    ]
    answers, errors = (round(found[0].value) if found else 0 for found in counts)
    return answers, errors


def unwell_now(
    environment: Environment,
    color: Color,
    release_id: str | None,
    policy: BlueGreenPolicy,
    states: LoadBalancerStates,
) -> list[str]:
    """By which triggers the live color is unwell, in words, as far as that can be told at once and without waiting.

    Empty does not mean that it is well: `Baseline` looks for longer, before traffic is moved.
    """
    verdicts = [judge_health(servers_down(environment, color, states))]
    conn_id = environment.monitoring.prometheus_conn_id
    if conn_id is not None:
        rules, seconds = judge_policy(environment, policy), latency_window_seconds(environment)
        try:
            with closing(Prometheus(conn_id)) as prometheus:
                answers, errors = _counted(prometheus, environment, color, seconds)
                latency = read_latency(prometheus, environment, color, release_id or "", seconds)
                alerts = critical_alerts(prometheus, environment, color)
        except OutsideSystemError as error:
            log.warning("how %s does can't be told yet: %s", color, error)
        else:
            counted = [TrafficDelta(time.time(), answers, errors, answers)]
            verdicts += [
                judge_errors(counted, time.time(), rules),
                judge_latency(latency, rules),
                judge_alerts(alerts, _EVER),
            ]
    return [verdict.reason for verdict in verdicts if verdict.kind is VerdictKind.FAIL]


def figures_before(progress: Progress) -> FiguresFact | None:
    """The live release's figures from before the change; None when there are none."""
    kept = progress.values(BASELINE)
    return FiguresFact.model_validate(kept) if kept else None
