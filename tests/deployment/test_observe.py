"""What a bake sees: differences of counters that survive reloads, health that is never guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.deployment.judge import JudgePolicy, VerdictKind, judge
from sebenza_ops.deployment.observe import (
    KEEP_SECONDS,
    MetricsObservation,
    TrafficHistory,
    critical_alerts,
    is_above_buckets,
    observation,
    servers_down,
    servers_up,
    unknown,
)
from sebenza_ops.environments.models import Color
from sebenza_ops.systems.errors import HostUnreachableError
from sebenza_ops.systems.haproxy import BackendState, LoadBalancerState, ServerState
from sebenza_ops.systems.prometheus import ActiveAlert, Prometheus
from tests.deployment.estate import backend_state, balancer
from tests.systems.estates import shipped

PRODUCTION = shipped("production")


def state(name: str, requests: int, errors: int = 0, *, pid: int = 1, up: int = 2) -> LoadBalancerState:
    """A load balancer with these counters of green."""
    backends = {"bk_blue": backend_state("bk_blue"), "bk_green": backend_state("bk_green", requests, errors, up)}
    return balancer(name, "bk_green", backends=backends, process_id=pid)


def watch(*moments: Mapping[str, LoadBalancerState | HostUnreachableError]) -> list[tuple[int, int]]:
    """(requests, errors) of green in each moment, as the judge gets them."""
    history = TrafficHistory(PRODUCTION)
    for second, states in enumerate(moments):
        history.add(states, Color.GREEN, float(second))
    return [(delta.requests, delta.errors) for delta in history.deltas]


def test_the_first_look_counts_nothing() -> None:
    assert watch({"lb1": state("lb1", 1_000_000, 5000)}) == [(0, 0)], "what was before the switch was judged"


def test_differences_add_up_over_the_load_balancers() -> None:
    first = {"lb1": state("lb1", 100), "lb2": state("lb2", 200)}
    second = {"lb1": state("lb1", 110, 1), "lb2": state("lb2", 205, 2)}
    assert watch(first, second) == [(0, 0), (15, 3)]


def test_a_reloaded_haproxy_counts_from_zero_and_loses_nothing() -> None:
    assert watch({"lb1": state("lb1", 100, 7)}, {"lb1": state("lb1", 30, 2, pid=2)}) == [(0, 0), (30, 2)]


def test_a_reload_is_seen_even_when_the_new_counter_is_higher() -> None:
    assert watch({"lb1": state("lb1", 10, 5)}, {"lb1": state("lb1", 30, 6, pid=2)}) == [(0, 0), (30, 6)]


def test_cleared_counters_are_never_negative() -> None:
    assert watch({"lb1": state("lb1", 100, 7)}, {"lb1": state("lb1", 4, 1)}) == [(0, 0), (4, 1)]


def test_a_balancer_that_was_away_brings_what_happened_meanwhile() -> None:
    gone = HostUnreachableError("no answer", host="lb1")
    assert watch({"lb1": state("lb1", 100)}, {"lb1": gone}, {"lb1": state("lb1", 160, 20)}) == [
        (0, 0),
        (0, 0),
        (60, 20),
    ]


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 50), st.booleans()), min_size=1, max_size=30))
def test_nothing_is_counted_twice_or_lost_over_reloads(seconds: list[tuple[int, int, bool]]) -> None:
    history = TrafficHistory(PRODUCTION)
    pid = requests = errors = 0
    history.add({"lb1": state("lb1", 0, 0, pid=pid)}, Color.GREEN, 0.0)
    for moment, (more, bad, reloaded) in enumerate(seconds, 1):
        if reloaded:
            pid, requests, errors = pid + 1, 0, 0
        requests, errors = requests + more, errors + bad
        history.add({"lb1": state("lb1", requests, errors, pid=pid)}, Color.GREEN, float(moment))
    assert sum(delta.requests for delta in history.deltas) == sum(more for more, _, _ in seconds)
    assert sum(delta.errors for delta in history.deltas) == sum(bad for _, bad, _ in seconds)


def test_the_history_does_not_grow_for_ever() -> None:
    history = TrafficHistory(PRODUCTION)
    for second in range(1000):
        history.add({"lb1": state("lb1", second)}, Color.GREEN, float(second))
    assert len(history.deltas) <= KEEP_SECONDS + 1


def test_both_colors_are_in_the_evidence() -> None:
    history = TrafficHistory(PRODUCTION)
    history.add({"lb1": state("lb1", 1)}, Color.GREEN, 0.0)
    samples = history.add({"lb1": state("lb1", 4)}, Color.GREEN, 1.0)
    assert {(sample.color, sample.requests) for sample in samples} == {("blue", 0), ("green", 3)}


def test_health_names_server_balancer_and_status() -> None:
    states = {"lb1": state("lb1", 0), "lb2": state("lb2", 0, up=1)}
    assert servers_down(PRODUCTION, Color.GREEN, states) == ["app2 at lb2 (DOWN)"]
    assert servers_up(PRODUCTION, Color.GREEN, states) == 1, "the worst view counts"


@pytest.mark.parametrize("status", ["MAINT", "MAINT (via bk/app1)", "DRAIN"])
def test_a_server_that_people_took_out_is_no_failure_while_another_is_up(status: str) -> None:
    out = ServerState("app2", status, 0)

    def with_servers(*servers: ServerState) -> LoadBalancerState:
        return balancer("lb1", "bk_green", backends={"bk_green": BackendState("bk_green", 0, 0, 0, 0, 0, servers)})

    beside_a_healthy_one = with_servers(ServerState("app1", "UP", 0), out)
    assert servers_down(PRODUCTION, Color.GREEN, {"lb1": beside_a_healthy_one}) == []

    alone = with_servers(ServerState("app1", "DOWN", 0), out)
    assert servers_down(PRODUCTION, Color.GREEN, {"lb1": alone}) == ["app1 at lb1 (DOWN)", f"app2 at lb1 ({status})"]


def test_nobody_who_can_tell_is_no_data() -> None:
    gone = {"lb1": HostUnreachableError("no answer", host="lb1")}
    assert servers_down(PRODUCTION, Color.GREEN, gone) is None
    assert servers_up(PRODUCTION, Color.GREEN, gone) == 0
    assert unknown(PRODUCTION, Color.GREEN, gone) == ["lb1: no answer"]


def verdict(states: dict[str, LoadBalancerState | HostUnreachableError]) -> VerdictKind:
    history = TrafficHistory(PRODUCTION)
    history.add({"lb1": state("lb1", 0), "lb2": state("lb2", 0)}, Color.GREEN, 0.0)
    history.add({"lb1": state("lb1", 500), "lb2": state("lb2", 500)}, Color.GREEN, 1e12)
    seen = observation(PRODUCTION, Color.GREEN, states, history, MetricsObservation(None, None))
    seen = replace(seen, at=1e12)
    return judge(seen, JudgePolicy(metrics_expected=False), datetime.now(UTC)).kind


def test_a_balancer_without_the_backend_or_its_servers_holds_the_bake() -> None:
    good = state("lb1", 500)
    assert verdict({"lb1": good, "lb2": state("lb2", 500)}) is VerdictKind.PASS
    without_backend = replace(state("lb2", 500), backends={"bk_blue": backend_state("bk_blue")})
    without_servers = state("lb2", 500)
    without_servers.backends["bk_green"] = replace(without_servers.backends["bk_green"], servers=())
    for strange in (without_backend, without_servers, HostUnreachableError("no answer", host="lb2")):
        assert verdict({"lb1": good, "lb2": strange}) is VerdictKind.NO_DATA, f"{strange} was good news"


@pytest.mark.parametrize(
    ("labels", "counts"),
    [
        ({}, True),
        ({"color": "green"}, True),
        ({"color": "blue"}, False),  # of the release that was taken back, still in the alert's window
        ({"environment": "staging"}, False),
        ({"environment": "", "color": "green"}, True),
        ({"severity": "warning"}, False),
        ({"state": "pending"}, False),
    ],
)
def test_which_alerts_are_about_the_color_under_watch(labels: dict[str, str], counts: bool) -> None:
    values = {"name": "HighErrorRate", "state": "firing", "severity": "critical", "environment": "production"}
    alert = ActiveAlert(**{**values, **labels}, active_since=datetime.now(UTC))

    class Metrics:
        def alerts(self) -> list[ActiveAlert]:
            return [alert]

    found = critical_alerts(cast(Prometheus, Metrics()), PRODUCTION, Color.GREEN)
    assert [each.name for each in found] == (["HighErrorRate"] if counts else [])


@pytest.mark.parametrize(
    ("rates", "above"),
    [
        ({"0.1": 90, "5": 96, "10": 99, "+Inf": 100}, False),
        ({"0.1": 80, "5": 90, "10": 94, "+Inf": 100}, True),
        ({"0.1": 80, "5": 90, "10": 95, "+Inf": 100}, False),  # exactly the quantile
        ({"+Inf": 100}, False),
        ({}, False),
    ],
)
def test_a_quantile_above_the_highest_bucket_is_known(rates: dict[str, float], above: bool) -> None:
    assert is_above_buckets(rates, 0.95) is above
