"""Which release a rollback goes back to, and on which color: pure rules over what is seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sebenza_ops.deployment.observe import servers_up
from sebenza_ops.deployment.progress import Phase
from sebenza_ops.deployment.reconcile import ApplicationHostStates, LoadBalancerStates, live_colors
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.ledger import Deployment
from sebenza_ops.systems.application_hosts import ApplicationHostState
from sebenza_ops.systems.errors import OutsideSystemError

STRATEGY = "rollback"


class RollbackRefusedError(Exception):
    """There is no release to go back to, or it must not be gone back to; traffic was not touched."""


class AlreadyBackError(RollbackRefusedError):
    """All traffic is on the release already: there is nothing to do."""


@dataclass(frozen=True)
class Running:
    """What an environment serves and runs, as far as it can be told.

    Attributes:
        live: The colors that load balancers send to; one, unless they disagree.
        releases: The release that each color runs on every host that answers; None when there is no such one.
        healthy: The colors of which every load balancer that answers sees all servers up.
        problems: Hosts that could not be asked.
    """

    live: frozenset[Color]
    releases: Mapping[Color, str | None]
    healthy: frozenset[Color]
    problems: tuple[str, ...] = ()

    @property
    def live_release(self) -> str | None:
        """The release that all traffic is on, or None."""
        return self.releases[next(iter(self.live))] if len(self.live) == 1 else None


def running_now(environment: Environment, balancers: LoadBalancerStates, hosts: ApplicationHostStates) -> Running:
    """Put together what load balancers and hosts say. A host that does not answer does not stop a rollback."""
    application = environment.application
    states = [state for state in hosts.values() if isinstance(state, ApplicationHostState)]
    releases: dict[Color, str | None] = {}
    for color in Color:
        found = {state.release_of(application.process_name(color)) for state in states}
        releases[color] = found.pop() if len(found) == 1 else None
    wanted = len(environment.hosts_with_role(Role.APPLICATION))
    problems = [str(state) for state in (*balancers.values(), *hosts.values()) if isinstance(state, OutsideSystemError)]
    return Running(
        live=frozenset(color for color in live_colors(application, balancers).values() if color is not None),
        releases=releases,
        healthy=frozenset(color for color in Color if servers_up(environment, color, balancers) >= wanted),
        problems=tuple(problems),
    )


def choose_target(requested: str | None, live_release: str | None, good: Sequence[str], bad: Collection[str]) -> str:
    """The release to go back to.

    Args:
        requested: The release that was asked for; None for the last known good one.
        live_release: What all traffic is on now; None when that can't be said, or it is divided.
        good: Releases that the environment has run and verified, the newest first.
        bad: Releases that are marked bad there.

    Raises:
        RollbackRefusedError: The release is marked bad, or there is none to go back to.
        AlreadyBackError: It is live.
    """
    if requested is not None:
        if requested in bad:
            raise RollbackRefusedError(bad_target(requested))
        if requested == live_release:
            raise AlreadyBackError(f"all traffic is on {requested} already: nothing to do")
        return requested
    for release_id in good:
        if release_id != live_release and release_id not in bad:
            return release_id
    known = ", ".join(good) or "none"
    raise RollbackRefusedError(
        f"there is no known good release to go back to (known: {known}; live: {live_release or 'not known'}). "
        "Traffic was not touched. Give `to`, or deploy a release."
    )


def has_moved_nothing(former: Deployment | None, live_release: str | None) -> bool:
    """Whether a run that was just fenced off has left traffic where it was before: then there is nothing to go back.

    Never of a rollback: that it has moved nothing yet is why another one goes on.
    """
    if former is None or former.strategy == STRATEGY:
        return False
    phase = former.progress.get("phase")
    moved = phase is not None and Phase(phase) is not Phase.UNDONE
    return not moved and former.release_id != live_release


def why_unclear(running: Running, good: Sequence[str]) -> str | None:
    """Why it can't be told without the ledger where to go back to, or None.

    The live release is the one verified last, and beside it runs one that was not: a deployment that has not moved
    traffic, or what an earlier one has left. The ledger would tell; a guess might go back too far.
    """
    unproven = [name for name in running.releases.values() if name is not None and name not in good]
    if not good or running.live_release != good[0] or not unproven:
        return None
    return (
        f"the ledger is down, all traffic is on {good[0]}, which was verified last, and {unproven[0]} runs beside it, "
        f"which was not: there may be nothing to go back from. Traffic was not touched. Give `to`: {', '.join(good)}."
    )


def choose_color(running: Running, target: str) -> tuple[Color, bool]:
    """The color to send traffic to, and whether it is warm: running the release, healthy, on every host.

    Raises RollbackRefusedError when the release runs nowhere and no color is free for it.
    """
    for color in Color:
        if running.releases[color] == target and color in running.healthy:
            return color, True
    if len(running.live) == 1:
        return next(iter(running.live)).other, False
    what = "disagree" if running.live else "do not tell where they send"
    raise RollbackRefusedError(
        f"{target} runs nowhere, and no color is free for it: the load balancers {what}. Go back to a release that "
        f"runs ({', '.join(filter(None, running.releases.values())) or 'none'}): give it as `to`."
    )


def bad_target(release_id: str) -> str:
    """The refusal of a release that must not be gone back to."""
    return f"{release_id} is marked bad here itself. Traffic was not touched."


def may_be_started(color: Color, colors: Mapping[str, Color | None]) -> bool:
    """Whether a color may be started anew: no load balancer is known to send to it, so that nobody is cut off.

    Args:
        color: The color.
        colors: What each load balancer sends to now; None where it can't be told.
    """
    return color not in colors.values()
