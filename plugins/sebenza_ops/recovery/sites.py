"""The two sites of an environment: the one that serves by design, and the one that takes over."""

from __future__ import annotations

from collections.abc import Iterable

from sebenza_ops.environments.models import Environment, Host, Role

PRIMARY, SECONDARY = "primary", "secondary"


def site_name(environment: Environment, kind: str) -> str:
    """The name of the site of this kind. Raises ValueError when the inventory has none."""
    for site in environment.sites:
        if site.kind == kind:
            return site.name
    raise ValueError(f"{environment.name} has no {kind} site in the inventory")


def hosts_of(environment: Environment, site: str, role: Role | None = None) -> tuple[Host, ...]:
    """The hosts of a site, in the file's order, without spares."""
    return tuple(
        host
        for host in environment.hosts
        if host.site == site and not host.spare and (role is None or role in host.roles)
    )


def with_hosts(environment: Environment, hosts: Iterable[Host]) -> Environment:
    """The environment as if it had these hosts only, for what works on all of an environment's."""
    return environment.model_copy(update={"hosts": tuple(hosts)})
