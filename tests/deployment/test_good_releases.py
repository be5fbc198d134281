"""What the hosts know of good releases, and what a rollback without the ledger makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sebenza_ops.deployment.good_releases import KEPT, good_on_hosts, with_newest
from sebenza_ops.deployment.rollback_rules import Running, why_unclear
from sebenza_ops.environments.models import Color
from sebenza_ops.systems.application_hosts import ApplicationHostState, parse_state
from sebenza_ops.systems.errors import HostUnreachableError
from tests.deployment.estate import NEW, OLD

OLDER = "v0.9.0-cccccccccccc"


def state(name: str, good: str = "", last: str | None = None) -> ApplicationHostState:
    return ApplicationHostState(name, (), (), 10**10, "blue", last, tuple(good.split()))


def test_a_verified_release_comes_first_and_once() -> None:
    assert with_newest([OLD, OLDER], NEW) == [NEW, OLD, OLDER]
    assert with_newest([NEW, OLD], OLD) == [OLD, NEW]
    assert len(with_newest([f"v{number}-{'a' * 12}" for number in range(30)], NEW)) == KEPT


@pytest.mark.parametrize(
    ("states", "good"),
    [
        ([state("app1", f"{NEW} {OLD}"), state("app2", f"{NEW} {OLD}")], [NEW, OLD]),
        # app2 was away when the newer one was verified, or when it was taken off the line.
        ([state("app1", f"{NEW} {OLD}"), state("app2", OLD)], [OLD]),
        ([state("app1", OLD), state("app2", f"{NEW} {OLD}")], [OLD]),
        # A host that is new knows nothing, and forbids nothing.
        ([state("app1", f"{NEW} {OLD}"), state("app2")], [NEW, OLD]),
        ([state("app1", f"{NEW} {OLD}"), HostUnreachableError("gone", host="app2")], [NEW, OLD]),
        # Hosts from before there was a line.
        ([state("app1", last=OLD), state("app2", last=OLD)], [OLD]),
        ([state("app1", last=OLD), state("app2", last=NEW)], []),
        ([HostUnreachableError("gone", host="app1")], []),
    ],
)
def test_good_is_what_every_host_that_answers_calls_good(
    states: list[ApplicationHostState | HostUnreachableError], good: list[str]
) -> None:
    assert good_on_hosts({str(number): each for number, each in enumerate(states)}) == good


def test_the_line_is_read_from_the_hosts_state() -> None:
    text = f"== processes\n!no-daemon\n== releases\n\n== disk\n100\n== marker\nblue\n== last_good\n{OLD}\n"
    assert parse_state("app1", f"{text}\n== good\n{NEW} {OLD}\n").good_releases == (NEW, OLD)
    assert parse_state("app1", f"{text}\n== good\n!missing\n").good_releases == ()


RUNNING = Running(frozenset({Color.BLUE}), {Color.BLUE: OLD, Color.GREEN: NEW}, frozenset({Color.BLUE, Color.GREEN}))


@pytest.mark.parametrize(
    ("running", "good", "unclear"),
    [
        # A deployment that has not moved traffic, or what was left of one that was taken back.
        (RUNNING, [OLD, OLDER], True),
        (RUNNING, [OLD], True),
        # Traffic was moved to what is not verified yet: the last good one is where to go.
        (replace(RUNNING, live=frozenset({Color.GREEN})), [OLD], False),
        # It had passed, and the one before is still warm.
        (replace(RUNNING, live=frozenset({Color.GREEN})), [NEW, OLD], False),
        (replace(RUNNING, releases={Color.BLUE: OLD, Color.GREEN: None}), [OLD, OLDER], False),
        (RUNNING, [], False),
    ],
)
def test_a_guess_that_may_go_back_too_far_is_not_made(running: Running, good: list[str], unclear: bool) -> None:
    text = why_unclear(running, good)
    assert (text is not None) == unclear
    assert text is None or ("Give `to`" in text and NEW in text)
