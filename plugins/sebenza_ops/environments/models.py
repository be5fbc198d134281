"""The inventory: typed models of environments and of the build host.

All models are immutable and refuse unknown fields. Secrets are not here: fields that end in `conn_id`
name the Airflow connection that holds them. `inventory.load_inventory` reads the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, PrivateAttr, model_validator

from sebenza_ops.environments.application_settings import (
    ApplicationSettings,
    AppSettings,
    CacheSettings,
    DatabaseSettings,
    MonitoringSettings,
    NodeEnvironment,
)
from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy, ArchivedPath
from sebenza_ops.environments.backup_policy import BackupPolicy, LogicalDumpPolicy
from sebenza_ops.environments.build import Build
from sebenza_ops.environments.components import (
    Application,
    Cache,
    ColorPorts,
    Database,
    DatabaseProxy,
    LoadBalancing,
    Monitoring,
    ObjectStore,
    Service,
    ServiceManager,
)
from sebenza_ops.environments.database_policies import DatabaseSwitchPolicy
from sebenza_ops.environments.disaster_policy import DisasterRecoveryPolicy, EscrowPolicy
from sebenza_ops.environments.dns_records import Dns
from sebenza_ops.environments.errors import NOTHING, CrossCheckError, Finding
from sebenza_ops.environments.fields import ConnectionId, HttpsUrl, Model, Name
from sebenza_ops.environments.hosts import Color, Host, Role, SshAccess
from sebenza_ops.environments.policies import (
    ApprovalPolicy,
    BackupBeforeChangePolicy,
    BlueGreenPolicy,
    CertificatePolicy,
    Channel,
    Channels,
    DeploymentPolicy,
    EmailChannel,
    MaintenanceWindow,
    MaintenanceWindows,
    MigrationPolicy,
    Objectives,
    PagerDutyChannel,
    Policies,
    Retention,
    RollingPolicy,
    ScalingPolicy,
    SlackChannel,
    SmokeTest,
    Thresholds,
    WebhookChannel,
)
from sebenza_ops.environments.site_checks import check_sites
from sebenza_ops.environments.sites import Site, SiteDatabase, changes_at

__all__ = [
    "AppSettings",
    "Application",
    "ApplicationBackupPolicy",
    "ApplicationSettings",
    "ApprovalPolicy",
    "ArchivedPath",
    "BackupBeforeChangePolicy",
    "BackupPolicy",
    "BlueGreenPolicy",
    "Build",
    "Cache",
    "CacheSettings",
    "CertificatePolicy",
    "Channel",
    "Channels",
    "Color",
    "ColorPorts",
    "Database",
    "DatabaseProxy",
    "DatabaseSettings",
    "DatabaseSwitchPolicy",
    "DeploymentPolicy",
    "DisasterRecoveryPolicy",
    "Dns",
    "EmailChannel",
    "Environment",
    "EscrowPolicy",
    "Host",
    "LoadBalancing",
    "LogicalDumpPolicy",
    "MaintenanceWindow",
    "MaintenanceWindows",
    "MigrationPolicy",
    "Monitoring",
    "MonitoringSettings",
    "ObjectStore",
    "Objectives",
    "PagerDutyChannel",
    "Policies",
    "Retention",
    "Role",
    "RollingPolicy",
    "ScalingPolicy",
    "Service",
    "ServiceManager",
    "Site",
    "SiteDatabase",
    "SlackChannel",
    "SmokeTest",
    "SshAccess",
    "Thresholds",
    "WebhookChannel",
]


class Environment(Model):
    """One environment: its URL, machines, parts and policies."""

    kind: Annotated[Literal["environment"], Field(description="environment")]
    name: Annotated[Name, Field(description="Name; the file is called <name>.yaml, and DAGs <procedure>.<name>.")]
    url: Annotated[HttpsUrl, Field(description="Where users reach it. Manual, Environment Overview.")]
    description: Annotated[str, Field(description="One sentence for people.")] = ""
    sites: Annotated[tuple[Site, ...], Field(min_length=1, description="Where its hosts stand.")]
    active_site: Annotated[
        Name,
        Field(description="The site that serves: procedures change its hosts only. A disaster recovery says when."),
    ] = "primary"
    hosts: Annotated[tuple[Host, ...], Field(min_length=1, description="Its machines.")]
    ssh_conn_id: Annotated[ConnectionId, Field(description="Airflow connection: login and private key for all hosts.")]
    application: Annotated[Application, Field(description="The application.")]
    load_balancing: Annotated[LoadBalancing, Field(description="HAProxy.")] = LoadBalancing()
    database: Annotated[Database, Field(description="PostgreSQL.")]
    cache: Annotated[Cache, Field(description="Redis.")]
    object_store: Annotated[ObjectStore, Field(description="Object storage.")]
    monitoring: Annotated[Monitoring, Field(description="Prometheus and Alertmanager.")]
    alerts_webhook_conn_id: Annotated[
        ConnectionId | None,
        Field(description="Airflow connection with the URL for ALERTS_WEBHOOK. Manual, Environment Variables."),
    ] = None
    service_manager: Annotated[ServiceManager, Field(description="How services are moved.")] = ServiceManager()
    dns: Annotated[Dns | None, Field(description="The records that lead users to the active site.")] = None
    policies: Annotated[Policies, Field(description="Policies.")]

    _declared: Environment | None = PrivateAttr(default=None)

    @property
    def public_hostname(self) -> str:
        """Host name of the URL, as users send it in the Host header and as TLS names it (without a port)."""
        return self.url.removeprefix("https://").partition(":")[0]

    @property
    def node_environment(self) -> NodeEnvironment:
        """The application's NODE_ENV."""
        stated = self.application.settings.environment
        if stated is not None:
            return stated
        return next(known for known in get_args(NodeEnvironment) if known == self.name)

    @property
    def active_hosts(self) -> tuple[Host, ...]:
        """The hosts of the active site: what procedures may change."""
        return tuple(host for host in self.hosts if host.site == self.active_site)

    @property
    def serves(self) -> bool:
        """Whether the active site is the one that the file names; not so for a site that was taken with `at_site`."""
        return self._declared is None or self._declared.active_site == self.active_site

    @property
    def primary_site(self) -> Site:
        """The site that serves in ordinary times."""
        return next((site for site in self.sites if site.kind == "primary"), self.sites[0])

    @property
    def secondary_site(self) -> Site | None:
        """The disaster recovery site; None when there is none."""
        return next((site for site in self.sites if site.kind == "secondary"), None)

    def site(self, name: str) -> Site:
        """Return the site called `name`; `KeyError` with the known names when there is none."""
        for site in self.sites:
            if site.name == name:
                return site
        known = ", ".join(site.name for site in self.sites)
        raise KeyError(f"environment {self.name} has no site {name!r}; it has {known}")

    def at_site(self, name: str) -> Environment:
        """Return the environment as it is while the site `name` serves: its hosts, database, cache and storage.

        Procedures that are given it change that site and no other. `KeyError` when there is no such site.
        """
        declared = self._declared or self
        placed = declared.model_copy(update=changes_at(declared, self.site(name)))
        placed._declared = declared
        return placed

    def public_addresses(self, site: str) -> tuple[str, ...]:
        """Return what DNS answers while `site` serves; nothing when its load balancers have names only."""
        stated = self.site(site).public_addresses
        balancers = self.hosts_with_role(Role.LOAD_BALANCER, site=site)
        return stated or tuple(host.address for host in balancers if host.address.replace(".", "").isdigit())

    def hosts_with_role(
        self, role: Role | str, include_spare: bool = False, site: str | None = None
    ) -> tuple[Host, ...]:
        """Return the hosts with `role` in the file's order, of the active site unless another one is named.

        Spare hosts only when asked for.
        """
        wanted, place = Role(role), site if site is not None else self.active_site
        return tuple(
            host
            for host in self.hosts
            if wanted in host.roles and host.site == place and (include_spare or not host.spare)
        )

    def host(self, name: str) -> Host:
        """Return the host called `name`; `KeyError` with the known names when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts)
        raise KeyError(f"environment {self.name} has no host {name!r}; it has {known}")

    def service_unit(self, service: Service | str, host: Host) -> str:
        """Return the name by which the service manager of `host` knows `service`."""
        return self.service_manager.unit_template(Service(service)).format(
            host=host.name, version=self.database.major_version, user=self.application.user
        )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        findings = [
            *self._check_hosts(),
            *check_sites(self),
            *self._check_colors(),
            *self._check_roles(),
            *self._check_archives(),
            *self._check_backup(),
            *self._check_disaster_recovery(),
            *self._check_refresh(),
            *self._check_monitoring(),
            *self._check_windows(),
            *self._check_names(),
        ]
        if findings:
            raise CrossCheckError(findings)
        return self

    def _check_hosts(self) -> Iterator[Finding]:
        site_counts = Counter(site.name for site in self.sites)
        for index, site in enumerate(self.sites):
            if site_counts[site.name] > 1:
                yield Finding(("sites", index, "name"), site.name, "expected a name that no other site has")
        host_counts = Counter(host.name for host in self.hosts)
        endpoints = Counter((host.address, host.ssh.port) for host in self.hosts)
        for index, host in enumerate(self.hosts):
            if host_counts[host.name] > 1:
                yield Finding(("hosts", index, "name"), host.name, "expected a name that no other host has")
            if endpoints[host.address, host.ssh.port] > 1:
                yield Finding(
                    ("hosts", index, "address"), host.address, "expected an address (with ssh.port) of one host only"
                )
            if host.site not in site_counts:
                known = ", ".join(site_counts)
                yield Finding(("hosts", index, "site"), host.site, f"expected the name of a site: {known}")

    def _check_colors(self) -> Iterator[Finding]:
        colors = self.application.colors
        for color in Color:
            if color not in colors:
                yield Finding(("application", "colors"), NOTHING, f"expected both colors; {color} is missing")
        ports = Counter(port for entry in colors.values() for port in (entry.port, entry.process_port))
        backends = Counter(entry.backend for entry in colors.values())
        for color, entry in colors.items():
            place = ("application", "colors", color.value)
            for field, port in (("port", entry.port), ("process_port", entry.process_port)):
                if ports[port] > 1:
                    yield Finding((*place, field), port, "expected a port that neither color uses otherwise")
            if backends[entry.backend] > 1:
                yield Finding((*place, "backend"), entry.backend, "expected a backend of its own for each color")

    def _of_primary_site(self, role: Role, include_spare: bool = False) -> tuple[Host, ...]:
        """Policies are written for the primary site; while another one serves, procedures check what it allows."""
        known = {site.name for site in self.sites if site.kind != "primary"}
        return tuple(
            host
            for host in self.hosts
            if role in host.roles and host.site not in known and (include_spare or not host.spare)
        )

    def _check_roles(self) -> Iterator[Finding]:
        if self.policies.blue_green is not None:
            for role in (Role.LOAD_BALANCER, Role.APPLICATION):
                if not self._of_primary_site(role):
                    yield Finding(
                        ("hosts",),
                        NOTHING,
                        f"expected at least one host with role {role} (policies.blue_green needs it)",
                    )
        yield from self._check_rolling()
        replicas = self.database.replicas
        found = len(self._of_primary_site(Role.DATABASE, include_spare=True))
        if replicas and found < replicas + 1:
            yield Finding(
                ("database", "replicas"), replicas, f"expected {replicas + 1} hosts with role database, found {found}"
            )
        yield from self._check_database_switch()
        scaling = self.policies.scaling
        if scaling is not None and scaling.maximum_hosts < scaling.minimum_hosts:
            yield Finding(
                ("policies", "scaling", "maximum_hosts"),
                scaling.maximum_hosts,
                f"expected at least minimum_hosts ({scaling.minimum_hosts})",
            )

    def _check_archives(self) -> Iterator[Finding]:
        if self.policies.application_backup is not None and self.policies.backup is None:
            expected = "expected, because policies.application_backup is made on the days of policies.backup"
            yield Finding(("policies", "backup"), NOTHING, expected)

    def _check_backup(self) -> Iterator[Finding]:
        policy = self.policies.backup
        if policy is None:
            return
        if self.database.ssh_conn_id is None:
            expected = "expected a connection id, because policies.backup works as the owner of the cluster"
            yield Finding(("database", "ssh_conn_id"), NOTHING, expected)
        if not self._of_primary_site(Role.DATABASE):
            yield Finding(("hosts",), NOTHING, "expected a host with role database (policies.backup needs it)")
        if policy.run_on == "replica" and not self.database.replicas:
            expected = "expected primary, because database.replicas is 0"
            yield Finding(("policies", "backup", "run_on"), policy.run_on, expected)

    def _check_refresh(self) -> Iterator[Finding]:
        policy = self.policies.refresh
        if policy is None:
            return
        if self.database.data != "snapshot":
            expected = "expected snapshot, because policies.refresh replaces the database by another environment's"
            yield Finding(("database", "data"), self.database.data, expected)
        if policy.source == self.name:
            yield Finding(("policies", "refresh", "source"), policy.source, "expected another environment's name")

    def _check_database_switch(self) -> Iterator[Finding]:
        if self.policies.database_switch is None:
            return
        if not self.database.replicas:
            yield Finding(("database", "replicas"), 0, "expected 1, because policies.database_switch needs a replica")
        for field in ("ssh_conn_id", "replication_conn_id"):
            if getattr(self.database, field) is None:
                yield Finding(
                    ("database", field), NOTHING, "expected a connection id, because of policies.database_switch"
                )
        if not self._of_primary_site(Role.DATABASE_ENDPOINT):
            yield Finding(
                ("hosts",), NOTHING, "expected a host with role database_endpoint, because of policies.database_switch"
            )

    def _check_disaster_recovery(self) -> Iterator[Finding]:
        if self.policies.disaster_recovery is None:
            return
        if self.policies.database_switch is None:
            expected = "expected, because policies.disaster_recovery promotes and follows as a switch does"
            yield Finding(("policies", "database_switch"), NOTHING, expected)
        if self.secondary_site is None:
            expected = "expected a site of kind secondary, because of policies.disaster_recovery"
            yield Finding(("sites",), NOTHING, expected)

    def _check_rolling(self) -> Iterator[Finding]:
        rolling = self.policies.rolling
        if rolling is None:
            return
        if self.policies.blue_green is None:
            yield Finding(
                ("policies", "blue_green"), NOTHING, "expected, because policies.rolling judges by its numbers"
            )
        hosts = len(self._of_primary_site(Role.APPLICATION))
        # Without any host, what blue-green needs is said already.
        if hosts and hosts - rolling.batch_size < rolling.minimum_in_rotation:
            yield Finding(
                ("policies", "rolling", "minimum_in_rotation"),
                rolling.minimum_in_rotation,
                f"expected at most {max(hosts - rolling.batch_size, 0)}: of {hosts} application hosts, "
                f"{rolling.batch_size} at a time (batch_size) are out of rotation",
            )

    def _check_monitoring(self) -> Iterator[Finding]:
        blue_green = self.policies.blue_green
        if blue_green is not None and blue_green.traffic == "synthetic" and not self.application.measured_paths:
            yield Finding(
                ("application", "warm_up_paths"),
                self.application.warm_up_paths,
                "expected a path besides health and version check, because policies.blue_green.traffic is synthetic",
            )
        if self.monitoring.level != "full":
            return
        for field in ("prometheus_conn_id", "alertmanager_conn_id"):
            if getattr(self.monitoring, field) is None:
                yield Finding(("monitoring", field), NOTHING, "expected a connection id, because level is full")

    def _check_windows(self) -> Iterator[Finding]:
        windows = self.policies.maintenance_windows
        for index, window in enumerate(windows.scheduled if windows else ()):
            place = ("policies", "maintenance_windows", "scheduled", index)
            for field, moment in (("start", window.start), ("end", window.end)):
                if moment.tzinfo is not None:
                    yield Finding((*place, field), moment.isoformat(), 'expected a time without a zone ("02:00"): UTC')
                    return
            if window.end <= window.start:
                yield Finding((*place, "end"), window.end.isoformat(), "expected a time after start, on the same day")

    def _check_names(self) -> Iterator[Finding]:
        known = get_args(NodeEnvironment)
        if self.application.settings.environment is None and self.name not in known:
            yield Finding(
                ("application", "settings", "environment"),
                NOTHING,
                f"expected one of {', '.join(known)}, because the environment's name is none of them",
            )
