"""Looking at both sites from everywhere: what is lost, what a recovery would lose, what can take over."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.recovery.disaster_plan import DatabaseTarget, DisasterRefusedError
from sebenza_ops.recovery.disaster_repository import RestoreSource
from sebenza_ops.recovery.disaster_rules import Component, ComponentVerdict, Sighting, judge_components
from sebenza_ops.recovery.pair import Pair, endpoints_that_answer
from sebenza_ops.recovery.sites import hosts_of_all_sites, on_sites
from sebenza_ops.recovery.switch_plan import (
    EndpointStates,
    Loss,
    ServerStates,
    describe,
    loss_by_position,
    loss_by_time,
    loss_by_wal,
    server_states,
)
from sebenza_ops.systems.database_server import ServerState, parse_lsn
from sebenza_ops.systems.errors import HostUnreachableError, NoDataError, OutsideSystemError
from sebenza_ops.systems.reachability import THIS_WORKER, https_target, look_from, look_from_here, tcp_target


def components_of(environment: Environment) -> dict[str, Component]:
    """Everything of both sites that is looked at, by the target that is probed."""
    found: dict[str, Component] = {}

    def add(target: str, site: str, host: str, what: str, address: str, port: int) -> None:
        found[target] = Component(site=site, host=host, what=what, address=address, port=port)

    for host in hosts_of_all_sites(environment):
        address = host.address
        add(tcp_target(address, host.ssh.port), host.site, host.name, "SSH", address, host.ssh.port)
        if Role.LOAD_BALANCER in host.roles:
            port = environment.load_balancing.https_port
            target = https_target(address, port, environment.application.health_path)
            add(target, host.site, host.name, "HTTPS", address, port)
        if Role.APPLICATION in host.roles:
            port = environment.application.colors[Color.BLUE].port
            add(tcp_target(address, port), host.site, host.name, "Nginx", address, port)
        if Role.DATABASE in host.roles:
            port = environment.database.port
            add(tcp_target(address, port), host.site, host.name, "PostgreSQL", address, port)
    return found


def look(environment: Environment) -> list[ComponentVerdict]:
    """What every component of both sites is, seen from this worker and from every host that answers."""
    components = components_of(environment)
    places = hosts_of_all_sites(environment)
    targets, hostname = list(components), environment.public_hostname
    seen: dict[str, Mapping[str, bool] | OutsideSystemError] = {THIS_WORKER: look_from_here(hostname, targets)}
    seen |= on_sites(environment, places, lambda _, session: look_from(session, hostname, targets))
    sightings = []
    for place, answer in seen.items():
        for target, component in components.items():
            # A host that can't be asked is no witness; its own ports are looked at by the others.
            reached = None if isinstance(answer, OutsideSystemError) else answer[target]
            if component.host != place:
                sightings.append(Sighting(place=place, component=component, reached=reached))
    return judge_components(sightings)


@dataclass(frozen=True)
class Databases:
    """The database servers of both sites and their endpoints at one moment."""

    pair: Pair
    from_site: str
    to_site: str
    states: ServerStates
    endpoints: EndpointStates = field(default_factory=dict)

    @property
    def old_hosts(self) -> tuple[str, ...]:
        """The servers of the lost site."""
        return tuple(host.name for host in self.pair.hosts if host.site == self.from_site)

    @property
    def new_hosts(self) -> tuple[str, ...]:
        """The servers of the site that takes over."""
        return tuple(host.name for host in self.pair.hosts if host.site == self.to_site)


def databases(environment: Environment, from_site: str, to_site: str) -> Databases:
    """Ask every database server and every endpoint of both sites."""
    pair = Pair(environment, (from_site, to_site))
    return Databases(pair, from_site, to_site, pair.states(), pair.endpoint_states())


def find_target(found: Databases) -> DatabaseTarget:
    """Who takes over from whom. Raises DisasterRefusedError when nobody can."""
    known = server_states(found.states)
    shown = "; ".join(f"{name} is {describe(state)}" for name, state in found.states.items())
    candidates = [known[name] for name in found.new_hosts if name in known]
    promoted = [state for state in candidates if state.is_primary]
    standbys = [state for state in candidates if state.is_standby]
    if not promoted and not standbys:
        raise DisasterRefusedError(f"nothing was changed: no server of {found.to_site} could take over ({shown})")
    new = max(promoted or standbys, key=lambda state: (state.timeline, state.lsn))
    old = _old_primary(found, known)
    former = found.states[old]
    timeline = new.timeline
    if new.is_primary:
        # A run before this one has promoted it, and did not come to its end.
        timeline = former.timeline if isinstance(former, ServerState) else new.timeline - 1
        if timeline >= new.timeline:
            raise DisasterRefusedError(f"nothing was changed: {new.host} is a primary of its own history ({shown})")
    return DatabaseTarget(
        old=old,
        old_hosts=found.old_hosts,
        new=new.host,
        system_identifier=new.system_identifier,
        timeline=timeline,
        lsn=new.lsn if new.is_standby else 0,
        last_kept_at=new.last_commit_at,
        old_words=describe(former),
        new_words=new.words,
    )


def restore_target(found: Databases, source: RestoreSource) -> DatabaseTarget:
    """The server that is made anew from the repository, and in whose place."""
    known, new = server_states(found.states), found.states[source.host]
    old = _old_primary(found, known)
    return DatabaseTarget(
        old=old,
        old_hosts=found.old_hosts,
        new=source.host,
        system_identifier=source.system_identifier,
        timeline=source.timeline,
        lsn=parse_lsn(source.end_lsn),
        last_kept_at=source.last_commit_at,
        old_words=describe(found.states[old]),
        new_words=f"{describe(new)}; what is there is moved aside and kept",
    )


def restore_host(found: Databases) -> str:
    """The host that a restore is made on: one of the site that takes over, that can be logged in to.

    Raises OutsideSystemError.
    """
    errors = {name: found.states[name] for name in found.new_hosts}
    for name, state in errors.items():
        if not isinstance(state, HostUnreachableError):
            return name
    shown = "; ".join(f"{name} is {describe(state)}" for name, state in errors.items())
    raise NoDataError(
        f"no database host of {found.to_site} can be reached ({shown or 'the inventory has none'})", host=""
    )


def _old_primary(found: Databases, known: Mapping[str, ServerState]) -> str:
    if not found.old_hosts:
        raise DisasterRefusedError(f"nothing was changed: the inventory has no database host at {found.from_site}")
    answering = [name for name in found.old_hosts if name in known]
    primaries = [name for name in answering if known[name].is_primary or not known[name].has_signal]
    if primaries:
        return max(primaries, key=lambda name: (known[name].is_primary, known[name].timeline, known[name].lsn))
    # The endpoint's last word is as good as any other: one of them was the primary.
    for state in endpoints_that_answer(found.endpoints):
        for name in state.leads_to:
            if name in found.old_hosts:
                return name
    silent = [name for name in found.old_hosts if name not in known]
    return (silent or list(found.old_hosts))[0]


def estimate_loss(found: Databases, target: DatabaseTarget) -> Loss:
    """What the server that takes over does not have, as well as it can be told now."""
    new, old = found.states[target.new], found.states[target.old]
    if isinstance(new, OutsideSystemError):
        return Loss(basis=f"{target.new} can't be asked")
    if new.is_primary:
        return Loss(basis=f"{target.new} was promoted by a run before this one, which has its loss in its report")
    if isinstance(old, OutsideSystemError):
        return loss_by_time(new, found.endpoints, target.old, why=f"{target.old} can't be reached")
    if old.running == "yes":
        return loss_by_position(old, new)
    try:
        end = found.pair.on_server(target.old, lambda server: server.wal_end(old.timeline, new.lsn))
    except OutsideSystemError as error:
        return loss_by_time(new, found.endpoints, target.old, why=f"its WAL can't be read ({error})")
    return loss_by_wal(end, new)


def last_seen_well(found: Databases, target: DatabaseTarget) -> tuple[float | None, str]:
    """When the old primary was last known to work, and who says so; the earliest that can be shown."""
    seen_at, seen_by = last_seen(found, target.old)
    if seen_at is not None:
        return seen_at, seen_by
    if target.last_kept_at is not None:
        return target.last_kept_at, f"the last commit that {target.new} got from it"
    return None, ""


def last_seen(found: Databases, name: str) -> tuple[float | None, str]:
    """When a server of the lost site was last seen to work, by itself or by the endpoint; None when nobody saw it."""
    old = found.states[name]
    if isinstance(old, ServerState) and old.is_primary:
        return time.time(), f"{name} takes writes now"
    seen = [
        state.now_milliseconds / 1000 - state.servers[name].since_seconds
        for state in endpoints_that_answer(found.endpoints)
        if name in state.servers and not state.servers[name].is_up
    ]
    return (max(seen), "the database's endpoint saw it last") if seen else (None, "")
