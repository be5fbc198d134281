"""Gathering what a bake is judged by: the load balancers' counters and health, and Prometheus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from sebenza_ops.deployment.judge import AlertObservation, LatencyObservation, Observation, TrafficDelta
from sebenza_ops.deployment.reconcile import LoadBalancerStates
from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.evidence.facts import LatencySample, TrafficSample
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancerState, ServerState
from sebenza_ops.systems.prometheus import Prometheus

KEEP_SECONDS = 120.0
# A rate needs two samples; four scrapes bear the loss of one, and ten seconds smooth a fast scrape.
MINIMUM_LATENCY_WINDOW_SECONDS = 10.0


@dataclass
class TrafficHistory:
    """Differences of the load balancers' counters, by color; survives a counter that begins anew.

    A reloaded or restarted HAProxy counts from 0: what it shows then is what happened since, never less than nothing.

    Attributes:
        servers: Only these servers of the watched color are judged; None: all of it.
    """

    environment: Environment
    servers: frozenset[str] | None = None
    deltas: deque[TrafficDelta] = field(default_factory=deque)
    _last: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)

    def add(self, states: LoadBalancerStates, watched: Color, now: float) -> list[TrafficSample]:
        """Take the load balancers' states in; returns this moment's samples of both colors for the evidence."""
        samples: list[TrafficSample] = []
        requests = errors = 0
        for name, state in states.items():
            if not isinstance(state, LoadBalancerState):
                continue
            for color in Color:
                delta, servers = self._delta(name, color, state), self._servers_delta(name, color, state)
                if delta is None:
                    continue
                samples.append(
                    TrafficSample(at=now, load_balancer=name, color=color.value, requests=delta[0], errors=delta[1])
                )
                if color is watched:
                    judged = delta if self.servers is None else servers
                    requests, errors = requests + judged[0], errors + judged[1]
        self.deltas.append(TrafficDelta(now, requests, errors))
        while self.deltas and self.deltas[0].at < now - KEEP_SECONDS:
            self.deltas.popleft()
        return samples

    def _delta(self, name: str, color: Color, state: LoadBalancerState) -> tuple[int, int] | None:
        backend = state.backends.get(self.environment.application.colors[color].backend)
        if backend is None:
            return None
        return self._since(name, color.value, (state.process_id, backend.requests_total, backend.responses_5xx))

    def _servers_delta(self, name: str, color: Color, state: LoadBalancerState) -> tuple[int, int]:
        """All servers are kept track of, so that one that is judged from now on has its beginning."""
        requests = errors = 0
        backend = state.backends.get(self.environment.application.colors[color].backend)
        for server in backend.servers if backend is not None else ():
            now = (state.process_id, server.requests_total, server.responses_5xx)
            delta = self._since(name, f"{color.value}/{server.name}", now)
            if delta is not None and server.name in (self.servers or ()):
                requests, errors = requests + delta[0], errors + delta[1]
        return requests, errors

    def _since(self, name: str, what: str, now: tuple[int, int, int]) -> tuple[int, int] | None:
        before = self._last.get((name, what))
        self._last[name, what] = now
        if before is None:
            return None
        if before[0] != now[0] or now[1] < before[1]:
            return now[1], now[2]
        return now[1] - before[1], max(now[2] - before[2], 0)


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
        self._environment = environment
        self._color = color
        interval = environment.monitoring.scrape_interval_seconds
        window = max(MINIMUM_LATENCY_WINDOW_SECONDS, 4 * interval)
        labels = (
            f'environment="{environment.name}",color="{color.value}",release="{release_id}",'
            'route!~"/health|/version|/metrics"'
        )
        buckets = f"http_request_duration_seconds_bucket{{{labels}}}"
        self._p95_query = f"histogram_quantile(0.95, sum by (le) (rate({buckets}[{window:g}s])))"
        self._count_query = f"sum(increase(http_request_duration_seconds_count{{{labels}}}[{window:g}s]))"
        self._newest_query = f"max(timestamp(http_request_duration_seconds_count{{{labels}}}))"
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
            latency = self._latency(self._prometheus)
            alerts = self._critical(self._prometheus)
        except OutsideSystemError as error:
            problems.append(str(error))
        return MetricsObservation(latency, alerts, tuple(problems))

    def _latency(self, prometheus: Prometheus) -> LatencyObservation | None:
        newest = prometheus.query(self._newest_query)
        p95 = prometheus.query(self._p95_query)
        count = prometheus.query(self._count_query)
        if not (newest and p95 and count):
            return None
        return LatencyObservation(p95[0].value, count[0].value, max(newest[0].at - newest[0].value, 0.0))

    def _critical(self, prometheus: Prometheus) -> list[AlertObservation]:
        return [
            AlertObservation(alert.name, alert.active_since, alert.summary)
            for alert in prometheus.alerts()
            if alert.state == "firing"
            and alert.severity == "critical"
            and alert.environment in ("", self._environment.name)
        ]


@dataclass(frozen=True)
class MetricsObservation:
    """What Prometheus said at one moment; None where it said nothing, with the reasons in `problems`."""

    latency: LatencyObservation | None
    alerts: Sequence[AlertObservation] | None
    problems: tuple[str, ...] = ()

    def sample(self, color: Color, now: float) -> LatencySample:
        """The response time as a sample for the evidence."""
        return LatencySample(at=now, color=color.value, p95_seconds=self.latency.p95_seconds if self.latency else None)


def observation(
    environment: Environment,
    color: Color,
    states: LoadBalancerStates,
    history: TrafficHistory,
    metrics: MetricsObservation,
) -> Observation:
    """Everything observed at this moment, as the judge takes it."""
    return Observation(
        at=time.time(),
        deltas=tuple(history.deltas),
        servers_down=servers_down(environment, color, states),
        latency=metrics.latency,
        alerts=metrics.alerts,
        problems=(*unknown(environment, color, states), *metrics.problems),
    )
