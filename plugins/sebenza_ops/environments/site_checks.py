"""What the sites of an environment must agree on: checked when its file is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sebenza_ops.environments.errors import NOTHING, Finding
from sebenza_ops.environments.hosts import Role

if TYPE_CHECKING:
    from sebenza_ops.environments.models import Environment

#: A secondary site without these could not serve when the primary one is gone.
_NEEDED_ROLES = (Role.LOAD_BALANCER, Role.APPLICATION, Role.DATABASE)
_NEEDED_PARTS = ("database", "cache", "object_store")


def check_sites(environment: Environment) -> Iterator[Finding]:
    """Every problem of the sites and of the records that lead to them."""
    names = [site.name for site in environment.sites]
    if environment.active_site not in names:
        expected = f"expected the name of a site: {', '.join(names)}"
        yield Finding(("active_site",), environment.active_site, expected)
    primaries = [index for index, site in enumerate(environment.sites) if site.kind == "primary"]
    if not primaries:
        yield Finding(("sites", 0, "kind"), environment.sites[0].kind, "expected one site of kind primary")
    for index in primaries[1:]:
        yield Finding(("sites", index, "kind"), "primary", "expected secondary: one site is primary already")
    for index, site in enumerate(environment.sites):
        if site.kind == "primary":
            continue
        for role in _NEEDED_ROLES:
            if not environment.hosts_with_role(role, include_spare=True, site=site.name):
                expected = f"expected a host with role {role} at site {site.name}, which could not serve without one"
                yield Finding(("hosts",), NOTHING, expected)
        for part in _NEEDED_PARTS:
            if getattr(site, part) is None:
                expected = "expected, because a secondary site must work when nothing of the primary one answers"
                yield Finding(("sites", index, part), NOTHING, expected)
    yield from _check_dns(environment)


def _check_dns(environment: Environment) -> Iterator[Finding]:
    dns = environment.dns
    if dns is None:
        return
    for index, name in enumerate(dns.names):
        if name != dns.zone and not name.endswith(f".{dns.zone}"):
            yield Finding(("dns", "names", index), name, f"expected a name in the zone {dns.zone}")
    if dns.backend == "route53" and dns.hosted_zone_id is None:
        yield Finding(("dns", "hosted_zone_id"), NOTHING, "expected the zone's id, because backend is route53")
    for index, site in enumerate(environment.sites):
        if not environment.public_addresses(site.name):
            expected = "expected addresses, because dns leads to this site and its load balancers have names only"
            yield Finding(("sites", index, "public_addresses"), NOTHING, expected)
