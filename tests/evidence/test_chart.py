"""The chart's numbers, and its SVG as part of a page."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.evidence.chart import Width, error_counts, latency_points, render_chart, request_rates
from sebenza_ops.evidence.facts import LatencySample, TrafficSample
from sebenza_ops.evidence.summary import marks
from tests.evidence import samples


def sample(at: float, requests: float, load_balancer: str = "lb1", errors: float = 0) -> TrafficSample:
    return TrafficSample(at=at, load_balancer=load_balancer, color="blue", requests=requests, errors=errors)


@given(
    steps=st.lists(st.floats(0.6, 1.4), min_size=3, max_size=60),
    offset=st.floats(0, 0.9),
    rate=st.integers(1, 500),
)
def test_uneven_sampling_does_not_invent_peaks(steps: list[float], offset: float, rate: int) -> None:
    moments, now = [], 1000.0
    for step in steps:
        now += step
        moments.append(now)
    before = [1000.0, *moments]
    traffic = [sample(at, rate * (at - earlier)) for earlier, at in zip(before, moments, strict=False)]
    traffic += [sample(at + offset, rate * (at - earlier), "lb2") for earlier, at in zip(before, moments, strict=False)]
    points = request_rates(traffic, 0)["blue"]
    # The first sample's interval is taken as a second, and at the ends only one load balancer may have been sampled.
    inner = [value for at, value in points if moments[0] + 2 <= at <= moments[-1] - 2]
    assert all(value == pytest.approx(2 * rate) for value in inner)


def test_a_pause_is_a_hole_and_not_a_zero() -> None:
    points = request_rates([sample(10, 5), sample(11, 5), sample(30, 5), sample(31, 5)], 10)["blue"]
    assert [at for at, value in points if math.isnan(value)] == [1]
    assert [(at, value) for at, value in points if not math.isnan(value)] == [(-1, 5), (0, 5), (19, 5), (20, 5)]


def test_response_times_are_not_drawn_over_what_was_not_measured() -> None:
    found = [(10, 0.1), (11, None), (12, 0.2), (30, 0.3)]
    points = latency_points([LatencySample(at=at, color="blue", p95_seconds=value) for at, value in found], 10)
    assert [at for at, value in points if math.isnan(value)] == [1, 3]
    assert [(at, value) for at, value in points if not math.isnan(value)] == [(0, 0.1), (2, 0.2), (20, 0.3)]


@given(st.lists(st.tuples(st.floats(1000, 1100), st.integers(0, 9)), min_size=1, max_size=50))
def test_every_error_is_counted_once(found: list[tuple[float, int]]) -> None:
    counted = error_counts([sample(at, 10, errors=errors) for at, errors in found], 1000)
    assert sum(value for points in counted.values() for _, value in points) == sum(errors for _, errors in found)


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_the_chart_is_an_element_of_a_page(width: Width) -> None:
    evidence = samples.collect(samples.rolled_back_facts())
    svg = render_chart(evidence.traffic, evidence.latency, marks(evidence), samples.START.timestamp(), width)
    tree = ElementTree.fromstring(svg)
    texts = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("Requests per second", "Errors per second (5xx)", "switch", "switch back", "bake", "+1:00"):
        assert expected in texts
    assert "width" not in tree.attrib
    assert "viewBox" in tree.attrib
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert all(str(identifier).startswith(f"{width}-") for identifier in identifiers)
    for color in ("--blue", "--green", "--error", "--ink"):
        assert f"var({color})" in svg
    assert "#0" not in svg.replace("#0-", "")


def test_one_sample_is_enough() -> None:
    assert "no errors" in render_chart([sample(1000, 5)], [], [], 1000)


def test_the_same_facts_draw_the_same_chart() -> None:
    evidence = samples.collect(samples.in_progress_facts())
    drawn = {render_chart(evidence.traffic, evidence.latency, marks(evidence), 0) for _ in range(2)}
    assert len(drawn) == 1
