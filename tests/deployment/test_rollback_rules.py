"""Where a rollback goes: which release, and on which color."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sebenza_ops.deployment.rollback_rules import (
    STRATEGY,
    AlreadyBackError,
    RollbackRefusedError,
    Running,
    choose_color,
    choose_target,
    has_moved_nothing,
    may_be_started,
    running_now,
)
from sebenza_ops.environments.models import Color
from sebenza_ops.systems.errors import HostUnreachableError
from tests.deployment.estate import NEW, OLD, backend_state, balancer, host, production
from tests.deployment.test_stuck_lease import DEPLOYMENT

ENVIRONMENT = production()
OLDER = "v0.9.0-cccccccccccc"


@pytest.mark.parametrize(
    ("live", "good", "bad", "target"),
    [
        (NEW, [OLD, OLDER], set(), OLD),  # taken back in its bake: it was never good
        (NEW, [NEW, OLD], set(), OLD),  # it had passed, and is wrong all the same
        (NEW, [NEW, OLD, OLDER], {OLD}, OLDER),
        (None, [OLD, OLDER], set(), OLD),  # divided traffic: the newest good one
    ],
)
def test_without_a_wish_it_goes_to_the_newest_good_release_that_is_not_live(
    live: str | None, good: list[str], bad: set[str], target: str
) -> None:
    assert choose_target(None, live, good, bad) == target


def test_a_given_release_need_not_have_been_good_here() -> None:
    assert choose_target(OLDER, NEW, [OLD], set()) == OLDER


@pytest.mark.parametrize(
    ("requested", "good", "bad", "error", "text"),
    [
        (OLD, [OLD], {OLD}, RollbackRefusedError, "marked bad"),
        (NEW, [OLD], set(), AlreadyBackError, "already"),
        (None, [NEW], set(), RollbackRefusedError, "no known good release"),
        (None, [], set(), RollbackRefusedError, "no known good release"),
        (None, [NEW, OLD], {OLD}, RollbackRefusedError, "no known good release"),
    ],
)
def test_refusals_say_why(
    requested: str | None, good: list[str], bad: set[str], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        choose_target(requested, NEW, good, bad)


def running(live: set[Color], healthy: set[Color], **releases: str | None) -> Running:
    return Running(frozenset(live), {color: releases.get(color.value) for color in Color}, frozenset(healthy))


BOTH = {Color.BLUE, Color.GREEN}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (running({Color.GREEN}, BOTH, blue=OLD, green=NEW), (Color.BLUE, True)),
        (running(BOTH, BOTH, blue=OLD, green=NEW), (Color.BLUE, True)),  # divided: where it runs
        (running({Color.GREEN}, {Color.GREEN}, blue=OLD, green=NEW), (Color.BLUE, False)),  # runs, but not healthy
        (running({Color.GREEN}, BOTH, blue=OLDER, green=NEW), (Color.BLUE, False)),
        (running({Color.BLUE}, BOTH, blue=NEW), (Color.GREEN, False)),
    ],
)
def test_the_color_is_where_the_release_runs_or_the_one_without_traffic(
    now: Running, expected: tuple[Color, bool]
) -> None:
    assert choose_color(now, OLD) == expected


def test_no_color_is_free_while_traffic_is_divided() -> None:
    with pytest.raises(RollbackRefusedError, match=f"disagree.*{NEW}"):
        choose_color(running(BOTH, BOTH, blue=NEW, green=OLDER), OLD)


def test_what_runs_is_told_without_a_host_that_does_not_answer() -> None:
    gone = HostUnreachableError("no answer", host="app2")
    found = running_now(
        ENVIRONMENT,
        {"lb1": balancer("lb1", "bk_green"), "lb2": HostUnreachableError("no answer", host="lb2")},
        {"app1": host("app1", ENVIRONMENT, blue=OLD, green=NEW), "app2": gone},
    )
    assert found.live == {Color.GREEN}
    assert (found.live_release, found.releases[Color.BLUE]) == (NEW, OLD)
    assert found.healthy == BOTH
    assert found.problems == ("lb2: no answer", "app2: no answer")


def test_a_color_with_a_dead_server_or_two_releases_is_not_warm() -> None:
    half = {"bk_blue": backend_state("bk_blue", up=1), "bk_green": backend_state("bk_green")}
    hosts = {"app1": host("app1", ENVIRONMENT, blue=OLD), "app2": host("app2", ENVIRONMENT, blue=NEW)}
    found = running_now(ENVIRONMENT, {"lb1": balancer("lb1", "bk_green", backends=half)}, hosts)
    assert found.healthy == {Color.GREEN}
    assert found.releases[Color.BLUE] is None


@pytest.mark.parametrize(
    ("phase", "live", "nothing"),
    [
        (None, OLD, True),
        ("undone", OLD, True),
        ("switching", OLD, False),
        ("baking", "v1.1.0-bbbbbbbbbbbb", False),
        ("baked", "v1.1.0-bbbbbbbbbbbb", False),
    ],
)
def test_a_run_that_was_fenced_off_before_it_moved_traffic_leaves_nothing_to_go_back(
    phase: str | None, live: str, nothing: bool
) -> None:
    assert has_moved_nothing(replace(DEPLOYMENT, progress={"phase": phase}), live) is nothing
    assert not has_moved_nothing(None, live)
    assert not has_moved_nothing(replace(DEPLOYMENT, strategy=STRATEGY, progress={}), live)


@pytest.mark.parametrize(
    ("colors", "may"),
    [
        ({"lb1": Color.GREEN, "lb2": Color.GREEN}, True),
        # An attempt that was killed while it moved traffic, or right after.
        ({"lb1": Color.BLUE, "lb2": Color.GREEN}, False),
        ({"lb1": Color.BLUE, "lb2": Color.BLUE}, False),
        ({"lb1": None, "lb2": Color.BLUE}, False),
        ({"lb1": None, "lb2": Color.GREEN}, True),
    ],
)
def test_a_color_that_has_traffic_is_not_started_anew(colors: dict[str, Color | None], may: bool) -> None:
    assert may_be_started(Color.BLUE, colors) is may
