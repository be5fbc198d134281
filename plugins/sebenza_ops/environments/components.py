"""The parts of an environment: application, load balancing, database, cache, storage, monitoring, services."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from sebenza_ops.environments.application_settings import ApplicationSettings
from sebenza_ops.environments.fields import (
    AbsolutePath,
    ConnectionId,
    Endpoint,
    Model,
    Name,
    Port,
    UrlPath,
)
from sebenza_ops.environments.hosts import Color


class ColorPorts(Model):
    """Where one color listens, on every application host."""

    port: Annotated[Port, Field(description="What the load balancers connect to (Nginx).")]
    process_port: Annotated[Port, Field(description="What the application itself listens on (APP_PORT).")]
    backend: Annotated[Name, Field(description="Name of the color's backend in HAProxy.")]


def _default_colors() -> dict[Color, ColorPorts]:
    return {
        Color.BLUE: ColorPorts(port=8001, process_port=3001, backend="bk_blue"),
        Color.GREEN: ColorPorts(port=8002, process_port=3002, backend="bk_green"),
    }


class Application(Model):
    """The application and its places on an application host.

    Paths are below the host's `root_dir`, except `pm2_path` and `node_bin_dir`: those are programs of
    the machine.
    """

    name: Annotated[Name, Field(description="Name of the application; its processes are <name>-<color>.")] = "sebenza"
    repository: Annotated[Name, Field(description="Name of the build description (kind: build) that builds it.")] = (
        "build"
    )
    user: Annotated[Name, Field(description="Login that owns releases, processes and PM2.")] = "sebenza"
    colors: Annotated[
        dict[Color, ColorPorts],
        Field(
            description="Keys blue and green. Default: 8001 and 8002, processes on 3001 and 3002, bk_blue and bk_green."
        ),
    ] = Field(default_factory=_default_colors)
    releases_dir: Annotated[AbsolutePath, Field(description="One directory per release.")] = "/srv/sebenza/releases"
    colors_dir: Annotated[AbsolutePath, Field(description="One directory per color: app.env and PM2's file.")] = (
        "/srv/sebenza/colors"
    )
    log_dir: Annotated[AbsolutePath, Field(description="The application's logs.")] = "/var/log/sebenza"
    state_dir: Annotated[AbsolutePath, Field(description="What the procedures remember on the host (fence).")] = (
        "/var/lib/sebenza"
    )
    marker_dir: Annotated[
        AbsolutePath, Field(description="current-color and last-good-release. Manual, Blue-Green Deployment.")
    ] = "/var/deployment"
    pm2_home: Annotated[AbsolutePath, Field(description="PM2_HOME.")] = "/home/sebenza/.pm2"
    pm2_path: Annotated[AbsolutePath, Field(description="The pm2 program, absolute on the machine.")] = "/usr/bin/pm2"
    node_bin_dir: Annotated[AbsolutePath, Field(description="Directory of node and npm, absolute on the machine.")] = (
        "/usr/bin"
    )
    processes_per_host: Annotated[
        int, Field(ge=1, le=64, description="PM2 cluster workers per color. Manual's hosts have 4 vCPU; ours: 2.")
    ] = 2
    health_path: Annotated[UrlPath, Field(description="Health check.")] = "/health"
    version_path: Annotated[UrlPath, Field(description="Which release answers.")] = "/version"
    warm_up_paths: Annotated[
        tuple[UrlPath, ...], Field(description="Requested from the idle color before it gets traffic.")
    ] = ("/health",)
    settings: Annotated[ApplicationSettings, Field(description="The application's own configuration.")] = (
        ApplicationSettings()
    )
    keep_releases: Annotated[int, Field(ge=2, description="Releases kept on a host. Ours: 5, as Capistrano.")] = 5

    @property
    def measured_paths(self) -> tuple[str, ...]:
        """The warm-up paths whose response times count: not those that machines ask all the time."""
        machines = {self.health_path, self.version_path, "/metrics"}
        return tuple(path for path in self.warm_up_paths if path.partition("?")[0] not in machines)

    def process_name(self, color: Color) -> str:
        """Return the name of a color's process in PM2, for example `sebenza-blue`."""
        return f"{self.name}-{color}"


class LoadBalancing(Model):
    """HAProxy on the hosts with the role load_balancer."""

    admin_socket: Annotated[AbsolutePath, Field(description="Runtime API, level admin.")] = "/run/haproxy/admin.sock"
    config_file: Annotated[AbsolutePath, Field(description="HAProxy's configuration.")] = "/etc/haproxy/haproxy.cfg"
    map_file: Annotated[AbsolutePath, Field(description="Map that names the live backend.")] = (
        "/etc/haproxy/maps/color.map"
    )
    map_key: Annotated[Name, Field(description="Key in the map.")] = "active"
    frontend: Annotated[Name, Field(description="Frontend that takes the users' requests.")] = "fe_https"
    http_port: Annotated[Port, Field(description="Redirects to HTTPS.")] = 80
    https_port: Annotated[Port, Field(description="Serves the users.")] = 443
    stats_port: Annotated[Port, Field(description="HAProxy's Prometheus exporter.")] = 8404
    ca_file: Annotated[
        AbsolutePath | None,
        Field(
            description="CA certificates (on the Airflow worker) that the load balancers' certificate is checked "
            "against; none: the system's."
        ),
    ] = None


class DatabaseProxy(Model):
    """HAProxy on the hosts with the role database_endpoint: what `endpoint` leads to, and how clients are paused.

    It has one server for each database host, of the same name, and its check passes on the primary only.
    """

    name: Annotated[Name, Field(description="Name of its listen section.")] = "database"
    admin_socket: Annotated[AbsolutePath, Field(description="Runtime API, level admin.")] = "/run/haproxy/admin.sock"
    pause_map: Annotated[
        AbsolutePath, Field(description="Map that says until when new connections wait (database-endpoint.lua).")
    ] = "/etc/haproxy/maps/database-pause.map"
    state_file: Annotated[
        AbsolutePath,
        Field(description="Which servers are in maintenance, read again at its start (server-state-file)."),
    ] = "/etc/haproxy/state/database.state"


class Database(Model):
    """PostgreSQL. The application reaches it at `endpoint`, which follows the primary."""

    conn_id: Annotated[ConnectionId, Field(description="Airflow connection: login and password.")]
    name: Annotated[
        Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]{0,62}$")],
        Field(description="Database. Manual, Database Backups: sebenza_logistics."),
    ] = "sebenza_logistics"
    endpoint: Annotated[Endpoint, Field(description="host:port that always leads to the primary.")]
    port: Annotated[Port, Field(description="PostgreSQL's port on the database hosts themselves.")] = 5432
    major_version: Annotated[int, Field(ge=12, description="Manual, Database Cluster: PostgreSQL 15.")] = 15
    replicas: Annotated[int, Field(ge=0, description="Streaming replicas. Manual, Database Cluster: 1.")] = 0
    data: Annotated[
        Literal["live", "snapshot", "mock"],
        Field(description="Manual, Environment Overview: live data, snapshot of production, or mock data."),
    ]
    proxy: Annotated[DatabaseProxy, Field(description="HAProxy behind the endpoint.")] = DatabaseProxy()
    ssh_conn_id: Annotated[
        ConnectionId | None,
        Field(description="Airflow connection: login to the database hosts as the owner of the cluster (postgres)."),
    ] = None
    replication_conn_id: Annotated[
        ConnectionId | None,
        Field(description="Airflow connection: login and password of the role that replicas connect as."),
    ] = None
    replication_slot: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9_]*\{host\}[a-z0-9_]*$",
            description="Name of a replica's slot on the primary. {host} is the replica's name, with _ for -.",
        ),
    ] = "{host}_slot"
    data_dir: Annotated[AbsolutePath, Field(description="The cluster on a database host. {version} is replaced.")] = (
        "/var/lib/postgresql/{version}/main"
    )
    config_file: Annotated[
        AbsolutePath, Field(description="PostgreSQL's configuration on a database host. {version} is replaced.")
    ] = "/etc/postgresql/{version}/main/postgresql.conf"
    socket_dir: Annotated[
        AbsolutePath, Field(description="PostgreSQL's Unix socket on the database hosts, below root_dir.")
    ] = "/run/postgresql"
    state_dir: Annotated[
        AbsolutePath, Field(description="What the procedures remember there as the owner of the cluster (fence, jobs).")
    ] = "/var/lib/postgresql/sebenza"

    def slot_of(self, host: str) -> str:
        """Return the name of the replication slot of a database host that is a replica."""
        return self.replication_slot.format(host=host.lower().replace("-", "_"))

    @property
    def endpoint_host(self) -> str:
        """Host part of the endpoint."""
        return self.endpoint.rpartition(":")[0]

    @property
    def endpoint_port(self) -> int:
        """Port part of the endpoint."""
        return int(self.endpoint.rpartition(":")[2])


class Cache(Model):
    """Redis."""

    conn_id: Annotated[ConnectionId, Field(description="Airflow connection: password.")]
    address: Annotated[Endpoint, Field(description="host:port that the application uses.")]
    rows_pattern: Annotated[
        str,
        Field(
            pattern=r"^[!-~]{2,200}$",
            description="Glob pattern of the keys that hold rows of the database: removed when the database was rolled "
            "back. Ours: the sample application's.",
        ),
    ] = "sebenza:[0-9]*:*"


class ObjectStore(Model):
    """S3-compatible storage of releases, backups and evidence."""

    conn_id: Annotated[ConnectionId, Field(description="Airflow connection: keys and endpoint.")] = (
        "sebenza_object_store"
    )
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="Bucket.")]
    prefix: Annotated[
        str, Field(pattern=r"^([A-Za-z0-9._-]+/)*$", description="Prefix of every key: empty, or ends in /.")
    ] = ""


class Monitoring(Model):
    """Prometheus and Alertmanager."""

    level: Annotated[
        Literal["full", "basic", "health"],
        Field(description="Manual, Environment Overview: production full, staging basic, development health."),
    ]
    prometheus_conn_id: Annotated[ConnectionId | None, Field(description="Airflow connection of Prometheus.")] = None
    alertmanager_conn_id: Annotated[ConnectionId | None, Field(description="Airflow connection of Alertmanager.")] = (
        None
    )
    scrape_interval_seconds: Annotated[
        float, Field(gt=0, description="Time between two scrapes of the application. Manual, Prometheus: 10 s.")
    ] = 10.0


class Service(StrEnum):
    """A service that the procedures may move."""

    HAPROXY = "haproxy"
    NGINX = "nginx"
    POSTGRESQL = "postgresql"
    REDIS = "redis"
    PM2 = "pm2"
    OBJECT_COPY = "object-copy"


_SYSTEMD_UNITS = {
    Service.HAPROXY: "haproxy.service",
    Service.NGINX: "nginx.service",
    Service.POSTGRESQL: "postgresql@{version}-main.service",
    Service.REDIS: "redis-server.service",
    Service.PM2: "pm2-{user}.service",
    Service.OBJECT_COPY: "sebenza-object-copy.service",
}


class ServiceManager(Model):
    """What starts and stops services on the hosts."""

    kind: Annotated[Literal["systemd", "supervisor"], Field(description="systemd, or the lab's supervisor.")] = (
        "systemd"
    )
    command: Annotated[
        tuple[str, ...],
        Field(description="Program with its fixed arguments. Default: sudo -n systemctl, or supervisorctl."),
    ] = ()
    units: Annotated[
        dict[Service, str],
        Field(
            description="Unit (or program) of haproxy, nginx, postgresql, redis, pm2 or object-copy, where it differs "
            "from the default. {host}, {version} and {user} are replaced."
        ),
    ] = Field(default_factory=dict)

    @property
    def control_command(self) -> tuple[str, ...]:
        """The program with its fixed arguments, as an argument list."""
        if self.command:
            return self.command
        return ("sudo", "-n", "systemctl") if self.kind == "systemd" else ("supervisorctl",)

    def unit_template(self, service: Service) -> str:
        """Return the unit's name with its placeholders {host}, {version} and {user}."""
        if service in self.units:
            return self.units[service]
        return _SYSTEMD_UNITS[service] if self.kind == "systemd" else f"{{host}}-{service}"
