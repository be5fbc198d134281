"""Work on hosts of several sites at once: each with the login and the parts of its own site."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts

Result = TypeVar("Result")

_silent: ContextVar[dict[str, HostUnreachableError] | None] = ContextVar("silent_hosts", default=None)


@contextmanager
def remembered_silence() -> Iterator[None]:
    """Within this, a host that could not be reached is not tried again.

    A site that is gone answers nothing at all, and every login to it takes its whole time-out. For one look at the
    estate, which takes seconds; whoever must know anew tries outside of it.
    """
    if _silent.get() is not None:
        yield
        return
    token = _silent.set({})
    try:
        yield
    finally:
        _silent.reset(token)


def hosts_of_all_sites(environment: Environment) -> tuple[Host, ...]:
    """Every host but the spares: for what looks at all sites, or tells all of them who changes the environment."""
    return tuple(host for host in environment.hosts if not host.spare)


def on_sites(
    environment: Environment,
    hosts: Iterable[Host],
    action: Callable[[Environment, HostSession], Result],
    *,
    as_owner: bool = False,
) -> dict[str, Result | OutsideSystemError]:
    """Run `action` on hosts of any site, with the environment as it is while the host's own site serves.

    Args:
        environment: The environment.
        hosts: Hosts of it.
        action: What is done.
        as_owner: As the owner of the database cluster, not as the procedures' own login.

    Returns: the result, or the error, by the host's name; only errors of the hosts are returned.
    """
    found: dict[str, Result | OutsideSystemError] = {}
    silent, wanted = _silent.get(), []
    for host in hosts:
        known = silent.get(host.name) if silent else None
        if known is not None:
            found[host.name] = known
        else:
            wanted.append(host)
    for site in dict.fromkeys(host.site for host in wanted):
        placed = environment.at_site(site)
        conn_id = placed.database.ssh_conn_id if as_owner else placed.ssh_conn_id
        if conn_id is None:
            raise ValueError(f"{environment.name} has no login as the owner of its database at {site}")
        own = [host for host in wanted if host.site == site]

        def act(session: HostSession, placed: Environment = placed) -> Result:
            return action(placed, session)

        found |= on_hosts(own, conn_id, act)
    if silent is not None:
        silent.update({name: each for name, each in found.items() if isinstance(each, HostUnreachableError)})
    return found
