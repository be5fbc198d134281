"""Sites: procedures see the hosts of the one that serves, and of another one only where they ask for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sebenza_ops.backup.steps import database_hosts
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment, Role
from sebenza_ops.environments.queues import connections_by_place
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.restore_rules import restorable_hosts
from sebenza_ops.systems.fencing import changed_hosts
from tests.environments.inventory_files import SHIPPED, Files

PRIMARY = {"lb1", "lb2", "app1", "app2", "app3", "db1", "db2", "dbendpoint", "cache"}
SECONDARY = {"lb3", "app4", "db3", "dbendpoint2", "cache2"}


def production(files: Files | None = None) -> Environment:
    return load_inventory(files.directory if files else SHIPPED).environments["production"]


def names(hosts: tuple[object, ...]) -> set[str]:
    return {str(getattr(host, "name", "")) for host in hosts}


@pytest.mark.parametrize(
    ("role", "primary", "secondary"),
    [
        (Role.LOAD_BALANCER, {"lb1", "lb2"}, {"lb3"}),
        (Role.APPLICATION, {"app1", "app2"}, {"app4"}),
        (Role.DATABASE, {"db1", "db2"}, {"db3"}),
        (Role.DATABASE_ENDPOINT, {"dbendpoint"}, {"dbendpoint2"}),
        (Role.CACHE, {"cache"}, {"cache2"}),
    ],
)
def test_hosts_of_a_role_are_those_of_the_active_site(role: Role, primary: set[str], secondary: set[str]) -> None:
    environment = production()
    assert names(environment.hosts_with_role(role)) == primary
    assert names(environment.hosts_with_role(role, site="secondary")) == secondary
    assert names(environment.at_site("secondary").hosts_with_role(role)) == secondary


def test_what_procedures_change_is_at_the_active_site() -> None:
    environment = production()
    assert names(environment.active_hosts) == PRIMARY, "archives and restores"
    assert names(changed_hosts(environment)) == {"lb1", "lb2", "app1", "app2"}, "fences and markers"
    assert names(database_hosts(environment)) == {"db1", "db2"}, "backups"
    assert names(restorable_hosts(environment)) == {"app1", "app2", "app3"}
    pair = Pair(environment)
    assert names((*pair.hosts, *pair.endpoint_hosts)) == {"db1", "db2", "dbendpoint"}, "the switch of the primary"
    elsewhere = environment.at_site("secondary")
    assert names(elsewhere.active_hosts) == SECONDARY
    assert names(changed_hosts(elsewhere)) == {"lb3", "app4"}
    assert names(database_hosts(elsewhere)) == {"db3"}


def test_no_procedure_goes_over_the_hosts_of_every_site() -> None:
    package = Path(__file__).resolve().parents[2] / "plugins/sebenza_ops"
    # Which describe sites, check all of them, show how large an environment is, and recover one site at another.
    allowed = ("environments/", "estate/", "console/", "recovery/sites.py")
    found = [
        f"{file.relative_to(package)}:{number}"
        for file in sorted(package.rglob("*.py"))
        if not str(file.relative_to(package)).startswith(allowed)
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if re.search(r"environment\.hosts\b", line)
    ]
    assert not found, f"active_hosts, hosts_with_role or a site is meant here: {found}"


def test_a_site_brings_its_own_database_cache_and_storage() -> None:
    environment = production()
    place = environment.at_site("secondary")
    assert place.database.endpoint == "db.secondary.sebenza.com:5432"
    assert place.database.conn_id == "sebenza_production_secondary_database"
    assert place.database.replicas == 0
    assert place.database.ssh_conn_id == environment.database.ssh_conn_id, "what the site does not say is as it was"
    assert place.cache.conn_id == "sebenza_production_secondary_cache"
    assert place.object_store.bucket == "sebenza-secondary"
    assert place.policies.backup is not None
    assert environment.policies.backup is not None
    assert place.policies.backup.repository_conn_id == "sebenza_production_secondary_backup_repository"
    assert place.policies.backup.cipher_conn_id == environment.policies.backup.cipher_conn_id
    assert (environment.serves, place.serves) == (True, False)
    assert place.public_addresses("secondary") == ("198.51.100.13",)
    assert place.public_addresses("primary") == ("192.0.2.11", "192.0.2.12")


def test_the_way_back_leads_to_what_the_file_says() -> None:
    environment = production()
    back = environment.at_site("secondary").at_site("primary")
    assert back.database == environment.database
    assert back.cache == environment.cache
    assert back.object_store == environment.object_store
    assert back.policies == environment.policies
    assert names(back.active_hosts) == PRIMARY


def test_a_file_that_says_that_the_secondary_site_serves(files: Files) -> None:
    files.edit("production", "active_site: primary", "active_site: secondary")
    inventory = load_inventory(files.directory)
    assert not inventory.errors, "policies of the primary site may not keep the file from being read in a disaster"
    environment = inventory.environments["production"]
    assert environment.serves
    assert names(changed_hosts(environment)) == {"lb3", "app4"}
    assert environment.database.endpoint == "db.secondary.sebenza.com:5432"
    assert not environment.at_site("primary").serves
    assert environment.at_site("primary").database.endpoint == "db.sebenza.com:5432"


@pytest.mark.parametrize(
    ("old", "new", "path", "expected"),
    [
        ("active_site: primary", "active_site: third", "active_site", "the name of a site: primary, secondary"),
        ("    kind: secondary", "    kind: primary", "sites[1].kind", "one site is primary already"),
        ("    kind: primary", "    kind: secondary", "sites[0].kind", "one site of kind primary"),
        ("    object_store:\n      conn_id: sebenza_secondary_object_store\n      bucket: sebenza-secondary\n", "",
         "sites[1].object_store", "must work when nothing of the primary one answers"),
        ("names: [app.sebenza.com]", "names: [app.example.com]", "dns.names[0]", "a name in the zone sebenza.com"),
        ("backend: rfc2136\n", "backend: route53\n", "dns.hosted_zone_id", "because backend is route53"),
        ("address: 198.51.100.13", "address: lb3.sebenza.com", "sites[1].public_addresses", "have names only"),
        ("address: 198.51.100.33\n    roles: [database]", "address: 198.51.100.33\n    roles: [log]", "hosts",
         "a host with role database at site secondary"),
        ('resolvers: ["9.9.9.9:53", "1.1.1.1:53"]', "resolvers: []", "dns.resolvers", "at least 1 item"),
        ("kind: secondary\n", "kind: secondary\n    public_addresses: [nowhere]\n", "sites[1].public_addresses[0]",
         "an IPv4 address"),
    ],
)  # fmt: skip
def test_mistakes_about_sites_are_named(files: Files, old: str, new: str, path: str, expected: str) -> None:
    file = files.edit("production", old, new)
    problems = load_inventory(files.directory).errors[str(file)].problems
    found = [problem.expected for problem in problems if problem.path == path]
    assert any(expected in text for text in found), "\n".join(map(str, problems))


def test_workers_of_production_need_the_connections_of_every_site() -> None:
    needed = connections_by_place(load_inventory(SHIPPED))["production"]
    assert {"sebenza_production_secondary_database", "sebenza_secondary_object_store", "sebenza_dns"} <= set(needed)
    assert "sebenza_dns" not in connections_by_place(load_inventory(SHIPPED))["staging"]


def test_an_unknown_site_is_named() -> None:
    with pytest.raises(KeyError, match="production has no site 'third'; it has primary, secondary"):
        production().at_site("third")
