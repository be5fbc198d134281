"""The hosts of the lab: who they are, what runs on them, which environment they serve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lab import paths
from lab.addresses import (
    ALERTMANAGER_PORT,
    ALL_HOST_NAMES,
    COLOR_PORTS,
    DNS_PORT,
    HOST_NAMES,
    HTTP_PORT,
    HTTPS_PORT,
    MAILBOX_HTTP_PORT,
    MAILBOX_SMTP_PORT,
    NODE_EXPORTER_PORT,
    POSTGRES_PORT,
    PROMETHEUS_PORT,
    REDIS_PORT,
    SECONDARY_HOST_NAMES,
    SSH_PORT,
    STATS_PORT,
    STORAGE_PORT,
    address,
    endpoint,
)

# Ports on which a service listens as soon as it runs. PM2's depend on what is deployed.
SERVICE_PORTS: Final[dict[str, tuple[int, ...]]] = {
    "sshd": (SSH_PORT,),
    "haproxy": (HTTPS_PORT, HTTP_PORT, STATS_PORT),
    "database-endpoint": (POSTGRES_PORT,),
    "nginx": tuple(ports[0] for ports in COLOR_PORTS.values()),
    "pm2": (),
    "postgresql": (POSTGRES_PORT,),
    "redis": (REDIS_PORT,),
    "rclone": (STORAGE_PORT,),
    "prometheus": (PROMETHEUS_PORT,),
    "alertmanager": (ALERTMANAGER_PORT,),
    "node-exporter": (NODE_EXPORTER_PORT,),
    "mailbox": (MAILBOX_HTTP_PORT, MAILBOX_SMTP_PORT),
    "object-copy": (),
    "knot": (DNS_PORT,),
    "unbound": (DNS_PORT,),
}

_ONE_HOST: Final = ("sshd", "redis", "pm2", "nginx", "haproxy")

SERVICES: Final[dict[str, tuple[str, ...]]] = {
    "lb1": ("sshd", "haproxy"),
    "lb2": ("sshd", "haproxy"),
    "app1": ("sshd", "pm2", "nginx"),
    "app2": ("sshd", "pm2", "nginx"),
    "app3": ("sshd", "pm2", "nginx"),
    "dbendpoint": ("sshd", "database-endpoint"),
    "db1": ("sshd", "postgresql"),
    "db2": ("sshd", "postgresql"),
    "cache": ("sshd", "redis"),
    "staging": ("sshd", "postgresql", *_ONE_HOST[1:]),
    "development": _ONE_HOST,
    "build": ("sshd",),
    "monitoring": ("sshd", "prometheus", "alertmanager", "node-exporter"),
    "storage": ("sshd", "rclone"),
    "mailbox": ("sshd", "mailbox"),
    "lb3": ("sshd", "haproxy"),
    "app4": ("sshd", "pm2", "nginx"),
    "dbendpoint2": ("sshd", "database-endpoint"),
    "db3": ("sshd", "postgresql"),
    "cache2": ("sshd", "redis"),
    "storage2": ("sshd", "rclone", "object-copy"),
    "dns1": ("sshd", "knot"),
    "dns2": ("sshd", "unbound"),
}


@dataclass(frozen=True)
class LabEnvironment:
    """Which hosts of the lab make up one environment, and what its application is told."""

    name: str
    hostname: str
    load_balancers: tuple[str, ...]
    application_hosts: tuple[str, ...]
    spare_hosts: tuple[str, ...]
    database_hosts: tuple[str, ...]
    database_host: str
    """The host whose address the application uses for its database."""
    database_name: str
    cache_host: str
    storage_host: str = "storage"

    @property
    def database_endpoint(self) -> str:
        """`address:port` of the application's database."""
        return endpoint(self.database_host, POSTGRES_PORT)

    @property
    def cache_endpoint(self) -> str:
        """`address:port` of the application's Redis."""
        return endpoint(self.cache_host, REDIS_PORT)

    @property
    def change_hosts(self) -> tuple[str, ...]:
        """Every host that keeps markers: application hosts and load balancers, each once."""
        return tuple(dict.fromkeys((*self.application_hosts, *self.spare_hosts, *self.load_balancers)))


ENVIRONMENTS: Final[dict[str, LabEnvironment]] = {
    "production": LabEnvironment(
        name="production",
        hostname="app.sebenza.com",
        load_balancers=("lb1", "lb2"),
        application_hosts=("app1", "app2"),
        spare_hosts=("app3",),
        database_hosts=("db1", "db2"),
        database_host="dbendpoint",
        database_name="sebenza_logistics",
        cache_host="cache",
    ),
    "staging": LabEnvironment(
        name="staging",
        hostname="staging.sebenza.com",
        load_balancers=("staging",),
        application_hosts=("staging",),
        spare_hosts=(),
        database_hosts=("staging",),
        database_host="staging",
        database_name="sebenza_staging",
        cache_host="staging",
    ),
    "development": LabEnvironment(
        name="development",
        hostname="dev.sebenza.com",
        load_balancers=("development",),
        application_hosts=("development",),
        spare_hosts=(),
        database_hosts=("staging",),
        database_host="staging",
        database_name="sebenza_development",
        cache_host="development",
    ),
}


# Production's disaster recovery site: the same environment, from other hosts.
SECONDARY_SITE: Final = LabEnvironment(
    name="production",
    hostname="app.sebenza.com",
    load_balancers=("lb3",),
    application_hosts=("app4",),
    spare_hosts=(),
    database_hosts=("db3",),
    database_host="dbendpoint2",
    database_name="sebenza_logistics",
    cache_host="cache2",
    storage_host="storage2",
)

# Everything that stands in one place: with it go production's own hosts, its storage, builds and monitoring.
PRIMARY_SITE_HOSTS: Final = (
    "lb1", "lb2", "app1", "app2", "app3", "dbendpoint", "db1", "db2", "cache", "build", "monitoring", "storage",
)  # fmt: skip


def places() -> tuple[LabEnvironment, ...]:
    """Every environment at every site, whether it is up or not."""
    return (*ENVIRONMENTS.values(), SECONDARY_SITE)


def has_secondary_site() -> bool:
    """Whether this lab was brought up with its secondary site."""
    return paths.SECONDARY_SITE_FILE.exists()


def present_hosts() -> tuple[str, ...]:
    """The hosts that this lab has when it is up."""
    return ALL_HOST_NAMES if has_secondary_site() else HOST_NAMES


def environment_of(host: str) -> LabEnvironment | None:
    """The environment (at its site) whose application or load balancer runs on this host, if one does."""
    for environment in places():
        if host in environment.change_hosts:
            return environment
    return None


def endpoint_of(host: str) -> LabEnvironment:
    """The environment (at its site) whose database's endpoint a host is."""
    return next(each for each in places() if each.database_host == host)


def check_host(host: str) -> str:
    """The host's name if the lab has it; `KeyError` with the list of hosts otherwise."""
    address(host)
    if host in SECONDARY_HOST_NAMES and not has_secondary_site():
        raise KeyError(f"{host} is of the secondary site, which is not up: python -m lab up --secondary-site")
    return host


def check_service(host: str, service: str) -> str:
    """The service's name if the host runs it; `KeyError` with the host's services otherwise."""
    if service not in SERVICES[check_host(host)]:
        raise KeyError(f"{host} has no service {service!r}; it has {', '.join(SERVICES[host])}")
    return service


def listening(hosts: tuple[str, ...] | None = None) -> list[tuple[str, str, int]]:
    """Every (host, service, port) that a running lab listens on, or those of some hosts."""
    chosen = present_hosts() if hosts is None else hosts
    return [(host, service, port) for host in chosen for service in SERVICES[host] for port in SERVICE_PORTS[service]]
