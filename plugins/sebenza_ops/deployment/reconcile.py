"""What is live, by the systems themselves: load balancers first, then processes, then files (design, rule 1).

A marker is a copy. It is compared and, where it is missing or wrong, repaired from the load balancers; it never
decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sebenza_ops.environments.models import Application, Color
from sebenza_ops.systems.application_hosts import ApplicationHostState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.haproxy import LoadBalancerState


@dataclass(frozen=True)
class Reconciliation:
    """What is live and what contradicts it.

    Attributes:
        live_color: The color that every load balancer sends new requests to; None when that can't be said.
        live_release: The release that the live color's processes run on every host; None when that can't be said.
        idle_release: The same for the idle color; None when it is stopped or its hosts differ.
        conflicts: Why nothing may be changed, each with what to do.
        repairs: Load balancers whose map file or marker does not say what they do, and what is wrong there.
        host_repairs: Application hosts whose marker does not say what the load balancers do, and what is wrong there.
        warnings: What is wrong with the live release's processes, and does not stop a change.
        live_releases: What the live color runs on each host that answers; None where nothing, or several.
        notices: What else an operator should know; no reason to deploy what is live already.
    """

    live_color: Color | None
    live_release: str | None = None
    idle_release: str | None = None
    conflicts: tuple[str, ...] = ()
    repairs: Mapping[str, str] = field(default_factory=dict)
    host_repairs: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    live_releases: Mapping[str, str | None] = field(default_factory=dict)


LoadBalancerStates = Mapping[str, LoadBalancerState | OutsideSystemError]
ApplicationHostStates = Mapping[str, ApplicationHostState | OutsideSystemError]


def color_of_backend(application: Application, backend: str | None) -> Color | None:
    """The color whose backend has this name."""
    return next((color for color, ports in application.colors.items() if ports.backend == backend), None)


def live_colors(application: Application, states: LoadBalancerStates) -> dict[str, Color | None]:
    """The color that each reachable load balancer sends new requests to; None for a backend that is no color's."""
    return {
        name: color_of_backend(application, state.runtime_backend)
        for name, state in states.items()
        if isinstance(state, LoadBalancerState)
    }


def reconcile(
    application: Application,
    load_balancers: LoadBalancerStates,
    application_hosts: ApplicationHostStates,
    converge_to: Color | None = None,
    *,
    allow_mixed: bool = False,
) -> Reconciliation:
    """Compare the load balancers' runtime, their files, PM2's processes and their releases.

    Args:
        application: The inventory's application.
        load_balancers: State of every load balancer of the environment, or why there is none, by host name.
        application_hosts: The same for every application host that is not spare.
        converge_to: When load balancers disagree, the color that an operator has chosen to keep live.
        allow_mixed: Hosts of the live color that run different releases are no conflict but a warning: a rolling
            deployment, which is to end that, may have left them so.
    """
    conflicts = [f"{error}" for error in load_balancers.values() if isinstance(error, OutsideSystemError)]
    conflicts += [f"{error}" for error in application_hosts.values() if isinstance(error, OutsideSystemError)]
    hosts = {name: state for name, state in application_hosts.items() if isinstance(state, ApplicationHostState)}
    conflicts += [
        f"{name}: PM2's daemon does not run: start its service there"
        for name, state in hosts.items()
        if state.processes is None
    ]
    live, color_conflicts = _live_color(application, load_balancers, converge_to)
    conflicts += color_conflicts
    if live is None:
        return Reconciliation(live_color=None, conflicts=tuple(conflicts))
    live_release, mixed, warnings = _live_release(application, hosts, live)
    if allow_mixed:
        warnings, mixed = [*warnings, *mixed], []
    idle_releases = {state.release_of(application.process_name(live.other)) for state in hosts.values()}
    return Reconciliation(
        live_color=live,
        live_release=live_release,
        idle_release=idle_releases.pop() if len(idle_releases) == 1 else None,
        conflicts=tuple(conflicts + mixed),
        repairs=_repairs(application, load_balancers, live),
        host_repairs={
            name: f"the marker says {_shown(state.marker)}"
            for name, state in hosts.items()
            if state.marker != live.value
        },
        warnings=tuple(warnings),
        notices=tuple(_different_last_good(hosts)),
        live_releases={name: state.release_of(application.process_name(live)) for name, state in hosts.items()},
    )


def _live_color(
    application: Application, load_balancers: LoadBalancerStates, converge_to: Color | None
) -> tuple[Color | None, list[str]]:
    colors = live_colors(application, load_balancers)
    strange = [
        f"{name}: the running HAProxy's map names no color's backend ({_backend(load_balancers[name])}): "
        "set it to the color that is healthy, or start this run with converge_to"
        for name, color in colors.items()
        if color is None
    ]
    distinct = {color for color in colors.values() if color is not None}
    if converge_to is not None and (strange or len(distinct) > 1):
        return converge_to, []
    if strange:
        return None, strange
    if len(distinct) > 1:
        shown = ", ".join(f"{name} sends to {color}" for name, color in sorted(colors.items()))
        return None, [f"the load balancers disagree ({shown}): start this run with converge_to and the color to keep"]
    return (distinct.pop() if distinct else None), []


def _backend(state: LoadBalancerState | OutsideSystemError) -> str:
    return str(state.runtime_backend) if isinstance(state, LoadBalancerState) else "unknown"


def _live_release(
    application: Application, hosts: Mapping[str, ApplicationHostState], live: Color
) -> tuple[str | None, list[str], list[str]]:
    process_name = application.process_name(live)
    releases = {name: state.release_of(process_name) for name, state in hosts.items()}
    warnings = [
        f"{name}: the live color {live} has no process online, or processes of several releases"
        for name, release in releases.items()
        if release is None
    ]
    distinct = {release for release in releases.values() if release is not None}
    if len(distinct) > 1:
        shown = ", ".join(f"{name} runs {release}" for name, release in sorted(releases.items()))
        return (
            None,
            [
                f"the hosts of the live color {live} run different releases ({shown}): make them one first, with "
                "deploy_standard"
            ],
            warnings,
        )
    return (distinct.pop() if distinct else None), [], warnings


def _different_last_good(hosts: Mapping[str, ApplicationHostState]) -> list[str]:
    """A rollback without the ledger trusts what the hosts say; hosts that differ can't be trusted."""
    if len({state.last_good_release for state in hosts.values()}) < 2:
        return []
    shown = ", ".join(f"{name} says {_shown(state.last_good_release)}" for name, state in sorted(hosts.items()))
    return [f"the last good release is not the same on all hosts ({shown}); this deployment writes it anew at its end"]


def _repairs(application: Application, load_balancers: LoadBalancerStates, live: Color) -> dict[str, str]:
    repairs: dict[str, str] = {}
    expected = application.colors[live].backend
    for name, state in load_balancers.items():
        if not isinstance(state, LoadBalancerState):
            continue
        wrong = []
        if state.runtime_backend != expected:
            wrong.append(f"the running HAProxy sends to {state.runtime_backend}")
        if state.file_backend != expected:
            wrong.append(f"the map file says {state.file_backend or 'nothing'}")
        if state.marker != live.value:
            wrong.append(f"the marker says {_shown(state.marker)}")
        if wrong:
            repairs[name] = ", ".join(wrong)
    return repairs


def _shown(marker: str | None) -> str:
    if marker is None:
        return "nothing (no file)"
    return repr(marker[:40]) if marker else "nothing (empty)"
