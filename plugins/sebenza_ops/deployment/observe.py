"""Gathering what a bake is judged by: the load balancers' counters and health, and Prometheus."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sebenza_ops.deployment.judge import AlertObservation, JudgePolicy, LatencyObservation, Observation, TrafficDelta
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.environments.models import BlueGreenPolicy, Color, Environment
from sebenza_ops.evidence.facts import LatencySample, TrafficSample
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import BackendState, LoadBalancerState, ServerState
from sebenza_ops.systems.prometheus import Prometheus

KEEP_SECONDS = 120.0
PERCENTILE = 0.95
# A rate needs two samples; four scrapes bear the loss of one, and ten seconds smooth a fast scrape.
MINIMUM_LATENCY_WINDOW_SECONDS = 10.0


class _Counters(NamedTuple):
    """What a HAProxy process has counted of a backend or a server."""

    process_id: int
    requests: int
    errors: int
    answers: int

    def since(self, before: _Counters) -> _Counters:
        """What came after `before`; all of it when the counters began anew in between."""
        if before.process_id != self.process_id or self.requests < before.requests:
            return self
        return _Counters(
            self.process_id,
            self.requests - before.requests,
            max(self.errors - before.errors, 0),
            max(self.answers - before.answers, 0),
        )


@dataclass
class TrafficHistory:
    """Differences of the load balancers' counters, by color; survives a counter that begins anew.

    A reloaded or restarted HAProxy counts from 0: what it shows then is what happened since, never less than nothing.
    `dump` and `restore` carry it over a kill: what came meanwhile is in the first difference afterwards.

    Attributes:
        servers: Only these servers of the watched color are judged; None: all of it.
    """

    environment: Environment
    servers: frozenset[str] | None = None
    deltas: deque[TrafficDelta] = field(default_factory=deque)
    _last: dict[str, _Counters] = field(default_factory=dict)

    def add(self, states: LoadBalancerStates, watched: Color, now: float) -> list[TrafficSample]:
        """Take the load balancers' states in; returns this moment's samples of both colors for the evidence."""
        samples: list[TrafficSample] = []
        judged: list[_Counters] = []
        for name, state in states.items():
            if not isinstance(state, LoadBalancerState):
                continue
            for color in Color:
                backend = state.backends.get(self.environment.application.colors[color].backend)
                if backend is None:
                    continue
                # Servers are kept track of in any case, so that one that is judged from now on has its beginning.
                of_servers = self._of_servers(name, color, state.process_id, backend)
                whole = self._since(f"{name} {color.value}", _counters(state.process_id, backend))
                if whole is None:
                    continue
                samples.append(
                    TrafficSample(
                        at=now,
                        load_balancer=name,
                        color=color.value,
                        requests=whole.requests,
                        errors=whole.errors,
                        answers=whole.answers,
                    )
                )
                if color is watched:
                    judged += [whole] if self.servers is None else of_servers
        self.deltas.append(
            TrafficDelta(
                now,
                sum(one.requests for one in judged),
                sum(one.errors for one in judged),
                sum(one.answers for one in judged),
            )
        )
        while self.deltas and self.deltas[0].at < now - KEEP_SECONDS:
            self.deltas.popleft()
        return samples

    def dump(self) -> dict[str, Any]:
        """The history in a JSON form."""
        return {
            "deltas": [[delta.at, delta.requests, delta.errors, delta.answers] for delta in self.deltas],
            "counters": {what: list(counters) for what, counters in self._last.items()},
        }

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Go on from what `dump` has given."""
        self.deltas = deque(TrafficDelta(*delta) for delta in dumped.get("deltas", ()))
        self._last = {what: _Counters(*counters) for what, counters in dumped.get("counters", {}).items()}

    def _of_servers(self, name: str, color: Color, process_id: int, backend: BackendState) -> list[_Counters]:
        found = []
        for server in backend.servers:
            since = self._since(f"{name} {color.value}/{server.name}", _counters(process_id, server))
            if since is not None and server.name in (self.servers or ()):
                found.append(since)
        return found

    def _since(self, what: str, now: _Counters) -> _Counters | None:
        before = self._last.get(what)
        self._last[what] = now
        return None if before is None else now.since(before)


def _counters(process_id: int, shown: BackendState | ServerState) -> _Counters:
    answers = shown.requests_total if shown.responses_total is None else shown.responses_total
    return _Counters(process_id, shown.requests_total, shown.responses_5xx, answers)


def servers_down(environment: Environment, color: Color, states: LoadBalancerStates) -> list[str] | None:
    """The color's servers whose health checks fail on some load balancer ("app1 at lb2"); None when none can tell.

    A server in MAINT or DRAIN was taken out by people, which is no failure of the release, as long as another is up.
    """
    backend = environment.application.colors[color].backend
    known = [(state.host, servers) for state, servers in _servers(backend, states) if servers]
    if not known:
        return None
    return [
        f"{server.name} at {host} ({server.status})"
        for host, servers in known
        for server in servers
        if not server.is_up and not (server.is_out_on_purpose and any(other.is_up for other in servers))
    ]


def servers_up(environment: Environment, color: Color, states: LoadBalancerStates) -> int:
    """The fewest healthy servers of the color that any reachable load balancer sees; 0 when none can tell."""
    backend = environment.application.colors[color].backend
    return min((sum(server.is_up for server in servers) for _, servers in _servers(backend, states)), default=0)


def unknown(environment: Environment, color: Color, states: LoadBalancerStates) -> list[str]:
    """Why load balancers can't tell how the color does: no answer, or no server of the color in their configuration."""
    backend = environment.application.colors[color].backend
    problems = [str(state) for state in states.values() if isinstance(state, OutsideSystemError)]
    problems += [
        f"{state.host}: HAProxy has no server in {backend}"
        for state, servers in _servers(backend, states)
        if not servers
    ]
    return problems


def _servers(backend: str, states: LoadBalancerStates) -> list[tuple[LoadBalancerState, tuple[ServerState, ...]]]:
    """The servers of a backend on each load balancer that answered; none where it has no such backend."""
    reachable = [state for state in states.values() if isinstance(state, LoadBalancerState)]
    return [(s, s.backends[backend].servers if backend in s.backends else ()) for s in reachable]


class MetricsObserver:
    """Prometheus' view of the new color. Asked in a thread of its own, so that a slow answer never delays a judgement.

    Args:
        environment: The inventory's environment.
        color: The color under watch.
        release_id: Its release: an old release's series of the same color must not be judged.
    """

    def __init__(self, environment: Environment, color: Color, release_id: str) -> None:
        self._environment, self._color, self._release_id = environment, color, release_id
        self._window_seconds = latency_window_seconds(environment)
        conn_id = environment.monitoring.prometheus_conn_id
        self._prometheus = Prometheus(conn_id) if conn_id is not None else None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prometheus")
        self._future = self._thread.submit(self._ask)

    def close(self) -> None:
        """Stop asking."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._prometheus is not None:
            self._prometheus.close()

    def observe(self, wait_seconds: float) -> MetricsObservation:
        """The newest answer. Prometheus that takes longer than `wait_seconds` has none at this moment."""
        try:
            found = self._future.result(timeout=wait_seconds)
        except TimeoutError:
            return MetricsObservation(None, None, ("Prometheus does not answer in time",))
        self._future = self._thread.submit(self._ask)
        return found

    def _ask(self) -> MetricsObservation:
        if self._prometheus is None:
            return MetricsObservation(None, None)
        problems: list[str] = []
        latency: LatencyObservation | None = None
        alerts: list[AlertObservation] | None = None
        try:
            latency = read_latency(
                self._prometheus, self._environment, self._color, self._release_id, self._window_seconds
            )
            alerts = critical_alerts(self._prometheus, self._environment, self._color)
        except OutsideSystemError as error:
            problems.append(str(error))
        return MetricsObservation(latency, alerts, tuple(problems))


def critical_alerts(prometheus: Prometheus, environment: Environment, color: Color) -> list[AlertObservation]:
    """The critical alerts that fire for an environment now, but those about its other color.

    A release that was taken back is still in the alerts' windows when its correction is deployed.
    Raises OutsideSystemError.
    """
    return [
        AlertObservation(alert.name, alert.active_since, alert.summary)
        for alert in prometheus.alerts()
        if alert.state == "firing"
        and alert.severity == "critical"
        and alert.environment in ("", environment.name)
        and alert.color in ("", color.value)
    ]


def latency_window_seconds(environment: Environment) -> float:
    """Over how long response times are looked at."""
    return max(MINIMUM_LATENCY_WINDOW_SECONDS, 4 * environment.monitoring.scrape_interval_seconds)


def read_latency(
    prometheus: Prometheus,
    environment: Environment,
    color: Color,
    release_id: str,
    window_seconds: float,
    at: float | None = None,
) -> LatencyObservation | None:
    """A release's response times over the window that ends now, or at `at` (epoch seconds); None without any.

    Raises OutsideSystemError when Prometheus does not answer.
    """
    labels = (
        f'environment="{environment.name}",color="{color.value}",release="{release_id}",'
        'route!~"/health|/version|/metrics"'
    )
    buckets = f"sum by (le) (rate(http_request_duration_seconds_bucket{{{labels}}}[{window_seconds:g}s]))"
    newest = prometheus.query(f"max(timestamp(http_request_duration_seconds_count{{{labels}}}))", at)
    # In one answer, so that both are of the same moment: the percentile, which has no label, and what it comes from.
    series = prometheus.query(f"histogram_quantile({PERCENTILE}, {buckets}) or {buckets}", at)
    count = prometheus.query(f"sum(increase(http_request_duration_seconds_count{{{labels}}}[{window_seconds:g}s]))", at)
    p95 = [sample.value for sample in series if "le" not in sample.labels]
    if not (newest and p95 and count):
        return None
    rates = {sample.labels["le"]: sample.value for sample in series if "le" in sample.labels}
    return LatencyObservation(
        p95[0],
        count[0].value,
        max(newest[0].at - newest[0].value, 0.0),
        is_lower_bound=is_above_buckets(rates, PERCENTILE),
    )


def is_above_buckets(buckets: Mapping[str, float], quantile: float) -> bool:
    """Whether a quantile lies above the highest bound of a histogram's buckets (bound → cumulative rate).

    `histogram_quantile` gives that bound then, as if nothing were slower.
    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
    """
    bounds = {float(bound): rate for bound, rate in buckets.items()}
    total = bounds.pop(math.inf, 0.0)
    return bool(bounds) and bounds[max(bounds)] < quantile * total


@dataclass(frozen=True)
class MetricsObservation:
    """What Prometheus said at one moment; None where it said nothing, with the reasons in `problems`."""

    latency: LatencyObservation | None
    alerts: Sequence[AlertObservation] | None
    problems: tuple[str, ...] = ()

    def sample(self, color: Color, now: float) -> LatencySample:
        """The response time as a sample for the evidence."""
        return LatencySample(
            at=now,
            color=color.value,
            p95_seconds=self.latency.p95_seconds if self.latency else None,
            is_lower_bound=self.latency is not None and self.latency.is_lower_bound,
        )


def judge_policy(environment: Environment, policy: BlueGreenPolicy) -> JudgePolicy:
    """The numbers that an environment's releases are judged by."""
    return JudgePolicy(
        error_ratio_threshold=policy.error_ratio_threshold,
        response_time_threshold_seconds=policy.response_time_threshold_seconds,
        minimum_requests=policy.minimum_requests,
        stale_after_seconds=max(5.0, 3 * environment.monitoring.scrape_interval_seconds),
        metrics_expected=environment.monitoring.prometheus_conn_id is not None,
    )


def observation(
    environment: Environment,
    color: Color,
    states: LoadBalancerStates,
    history: TrafficHistory,
    metrics: MetricsObservation,
    doubts: Sequence[str] = (),
) -> Observation:
    """Everything observed at this moment, as the judge takes it; `doubts` are what else is not known, in words."""
    return Observation(
        at=time.time(),
        deltas=tuple(history.deltas),
        servers_down=servers_down(environment, color, states),
        latency=metrics.latency,
        alerts=metrics.alerts,
        problems=(*unknown(environment, color, states), *metrics.problems, *doubts),
    )
