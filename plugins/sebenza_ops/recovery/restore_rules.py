"""Whether an application host may be restored, from what, and what must run on it afterwards. Pure rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sebenza_ops.environments.models import Color, Environment, Host, Role
from sebenza_ops.systems.application_hosts import ApplicationHostState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancerState, ServerState
from sebenza_ops.systems.host_archives import ArchiveSet

LoadBalancerStates = Mapping[str, LoadBalancerState | OutsideSystemError]
ApplicationHostStates = Mapping[str, ApplicationHostState | OutsideSystemError]


class RestoreRefusedError(Exception):
    """The host may not be restored now. The message says why, what was done until then, and what to do."""


@dataclass(frozen=True)
class Live:
    """What users get: the color that every load balancer sends to, and the release that its other hosts run."""

    color: Color
    release_id: str


def restorable_hosts(environment: Environment) -> tuple[Host, ...]:
    """The hosts that can be restored: those that are an application host and nothing else, spares too."""
    return tuple(host for host in environment.active_hosts if host.roles == (Role.APPLICATION,))


def chosen_set(sets: Sequence[ArchiveSet], host: str, label: str, bad: Collection[str] = ()) -> ArchiveSet:
    """The set to restore from: the one that is named, or the newest good one.

    Args:
        sets: The host's verified sets that are in object storage, the newest first.
        host: The host.
        label: A set's label; empty: the newest.
        bad: Labels of sets that are known to be damaged.

    Raises RestoreRefusedError with the labels that there are.
    """
    good = [each for each in sets if each.label not in bad]
    known = ", ".join(each.label for each in good) or "none"
    if not label:
        if not good:
            raise RestoreRefusedError(f"no good backup of {host} is in object storage: nothing was touched")
        return good[0]
    named = [each for each in sets if each.label == label]
    if not named:
        raise RestoreRefusedError(f"{host} has no backup {label!r}; there: {known}. Nothing was touched.")
    if named[0] not in good:
        raise RestoreRefusedError(f"backup {label} of {host} is damaged; good ones: {known}. Nothing was touched.")
    return named[0]


def live_color(environment: Environment, states: LoadBalancerStates) -> Color:
    """The color that every load balancer sends to. Raises RestoreRefusedError when that can't be said."""
    backends = {ports.backend: color for color, ports in environment.application.colors.items()}
    colors: set[Color | None] = set()
    for state in states.values():
        if isinstance(state, OutsideSystemError):
            raise RestoreRefusedError(f"nobody can say who gets traffic, nothing was touched: {state}")
        colors.add(backends.get(state.runtime_backend or ""))
    found = colors.pop() if len(colors) == 1 else None
    if found is None:
        raise RestoreRefusedError(
            f"the load balancers of {environment.name} do not agree on one live color; bring them to one first (a "
            "deployment with converge_to). Nothing was touched."
        )
    return found


def what_is_live(environment: Environment, host: str, color: Color, peers: ApplicationHostStates) -> Live:
    """What the host must run, by its peers: what they run now counts, not what ran when the backup was made.

    Raises RestoreRefusedError when no peer runs the live color, or they differ.
    """
    name = environment.application.process_name(color)
    states = {peer: state for peer, state in peers.items() if isinstance(state, ApplicationHostState)}
    releases = {state.release_of(name) for peer, state in states.items() if peer != host} - {None}
    if len(releases) != 1:
        shown = ", ".join(sorted(str(release) for release in releases)) or "nothing"
        raise RestoreRefusedError(
            f"{host} must run what the other hosts of {color} run, and they run {shown}. Deploy a release first, or "
            "give the run a release_id. Nothing was touched."
        )
    return Live(color, str(releases.pop()))


def servers_of(environment: Environment, host: str, states: LoadBalancerStates) -> dict[str, list[ServerState]]:
    """By load balancer, the host as a server of each color that has it."""
    backends = {ports.backend for ports in environment.application.colors.values()}
    return {
        name: [
            server
            for backend in backends & state.backends.keys()
            for server in state.backends[backend].servers
            if server.name == host
        ]
        for name, state in states.items()
        if isinstance(state, LoadBalancerState)
    }


def serving(environment: Environment, host: str, color: Color, states: LoadBalancerStates) -> list[str]:
    """Load balancers that send to the host in this color now, in words."""
    backend = environment.application.colors[color].backend
    return [
        f"{name} says {server.status}"
        for name, state in states.items()
        if isinstance(state, LoadBalancerState) and backend in state.backends
        for server in state.backends[backend].servers
        if server.name == host and server.is_up
    ]


def out_on_purpose(environment: Environment, host: str, color: Color, states: LoadBalancerStates) -> list[str]:
    """Load balancers on which people have taken the host out (maintenance), in words: they must put it back."""
    backend = environment.application.colors[color].backend
    return [
        f"{name} says {server.status}"
        for name, state in states.items()
        if isinstance(state, LoadBalancerState) and backend in state.backends
        for server in state.backends[backend].servers
        if server.name == host and server.status.startswith("MAINT")
    ]
