"""What of a host belongs into its archive, by the host's roles. The one place that says so.

An environment adds to it in `policies.application_backup.paths`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sebenza_ops.environments.archive_policy import ApplicationBackupPolicy, ArchivedPath
from sebenza_ops.environments.components import Service
from sebenza_ops.environments.hosts import Host, Role
from sebenza_ops.environments.models import Environment


def archived_paths(environment: Environment, host: Host, policy: ApplicationBackupPolicy) -> tuple[ArchivedPath, ...]:
    """Everything that is archived of a host, each path once, in the order of its roles."""
    found: dict[str, ArchivedPath] = {}
    for role in host.roles:
        known = _BY_ROLE.get(role)
        for path in (*(known(environment, host) if known else ()), *policy.paths.get(role, ())):
            found.setdefault(path.path, path)
    return tuple(found.values())


def excluded_paths(environment: Environment) -> tuple[str, ...]:
    """What lies inside archived directories and is no part of them: what runs there now."""
    application = environment.application
    return (
        # Sockets and process ids of a running color.
        f"{application.colors_dir}/*/run",
        # A fence that came back from a backup would let an old run in.
        f"{application.state_dir}/*",
    )


def _application(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    application = environment.application
    home = f"/home/{application.user}"
    return (
        ArchivedPath(path=application.releases_dir, kind="application"),
        ArchivedPath(path=application.colors_dir, kind="application"),
        ArchivedPath(path=application.marker_dir, kind="application"),
        ArchivedPath(path="/etc/nginx"),
        *_unit(environment, host, Service.NGINX, Service.PM2),
        ArchivedPath(path=home, content=False, optional=True),
        ArchivedPath(path=application.pm2_home, content=False),
        ArchivedPath(path=application.log_dir, content=False),
        ArchivedPath(path=application.state_dir, content=False),
        ArchivedPath(path="/var/log/nginx", content=False),
        ArchivedPath(path="/var/lib/nginx", content=False, optional=True),
    )


def _load_balancer(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    return (
        # The configuration, the maps and the certificates.
        ArchivedPath(path=environment.load_balancing.config_file.rpartition("/")[0] or "/etc/haproxy"),
        ArchivedPath(path=environment.application.marker_dir, kind="application"),
        ArchivedPath(path=environment.application.state_dir, content=False),
        *_unit(environment, host, Service.HAPROXY),
    )


def _database(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    return (
        ArchivedPath(path="/etc/postgresql"),
        ArchivedPath(path="/etc/pgbackrest.conf", optional=True),
        ArchivedPath(path="/etc/pgbackrest", optional=True),
        *_unit(environment, host, Service.POSTGRESQL),
    )


def _database_endpoint(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    return (
        # The configuration, the script that holds clients, the map that it reads, and who is in maintenance.
        ArchivedPath(path="/etc/haproxy"),
        ArchivedPath(path=environment.application.state_dir, content=False, optional=True),
        *_unit(environment, host, Service.HAPROXY),
    )


def _cache(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    return (ArchivedPath(path="/etc/redis"), *_unit(environment, host, Service.REDIS))


def _monitoring(environment: Environment, host: Host) -> tuple[ArchivedPath, ...]:
    return (
        ArchivedPath(path="/etc/prometheus"),
        ArchivedPath(path="/etc/alertmanager", optional=True),
        *_unit(environment, host),
    )


def _unit(environment: Environment, host: Host, *services: Service) -> tuple[ArchivedPath, ...]:
    """What starts the services: systemd's own units and changes of units, or the supervisor's configuration."""
    if environment.service_manager.kind == "supervisor":
        return (ArchivedPath(path="/etc/supervisor"),)
    places = [ArchivedPath(path="/etc/systemd/system/sebenza-*", optional=True)]
    for service in services:
        unit = environment.service_unit(service, host)
        # A packaged unit lies elsewhere, and has a directory here only where somebody changed it.
        places.append(ArchivedPath(path=f"/etc/systemd/system/{unit}", optional=service is not Service.PM2))
        places.append(ArchivedPath(path=f"/etc/systemd/system/{unit}.d", optional=True))
        # What starts it at boot.
        places.append(ArchivedPath(path=f"/etc/systemd/system/*.wants/{unit}", optional=True))
    return tuple(places)


_BY_ROLE: Final[Mapping[Role, Callable[[Environment, Host], tuple[ArchivedPath, ...]]]] = {
    Role.APPLICATION: _application,
    Role.LOAD_BALANCER: _load_balancer,
    Role.DATABASE: _database,
    Role.DATABASE_ENDPOINT: _database_endpoint,
    Role.CACHE: _cache,
    Role.MONITORING: _monitoring,
}
