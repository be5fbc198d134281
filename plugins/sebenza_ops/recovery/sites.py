"""Work on hosts of several sites at once: each with the login and the parts of its own site."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts

Result = TypeVar("Result")


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
    wanted = list(hosts)
    for site in dict.fromkeys(host.site for host in wanted):
        placed = environment.at_site(site)
        conn_id = placed.database.ssh_conn_id if as_owner else placed.ssh_conn_id
        if conn_id is None:
            raise ValueError(f"{environment.name} has no login as the owner of its database at {site}")
        own = [host for host in wanted if host.site == site]

        def act(session: HostSession, placed: Environment = placed) -> Result:
            return action(placed, session)

        found |= on_hosts(own, conn_id, act)
    return found
