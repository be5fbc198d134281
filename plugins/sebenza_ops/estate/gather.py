"""Gathering: logs in everywhere at once, runs the reading scripts, and asks the systems beside the hosts."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sebenza_ops.environments.env_file import EnvFileError, render_env_file
from sebenza_ops.environments.models import Build, Color, Environment, Host, Role, Service
from sebenza_ops.estate import probes
from sebenza_ops.estate.backup_gather import read_backups
from sebenza_ops.estate.checks import MOVES, directories_of, programs_of, services_of
from sebenza_ops.estate.gathered import ClockReading, EstateReading, HostReading, ServiceReading
from sebenza_ops.estate.site_gather import read_dns, read_sites
from sebenza_ops.estate.system_checks import connections_of
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.errors import HostUnreachableError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.haproxy import LoadBalancer
from sebenza_ops.systems.ssh import HostSession, on_hosts

log = logging.getLogger(__name__)

CLOCK_READINGS = 3
SCRIPT_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class HostQuestions:
    """What a host is asked beside what every host is: set once, used by the host's thread."""

    environment: Environment
    build: Build | None = None
    transfer_source: str = ""


def gather(environment: Environment, build: Build | None) -> EstateReading:
    """Everything that is found in an environment. Raises nothing for what is broken there: that is what is looked for.

    Args:
        environment: The inventory's environment.
        build: The build host, None when the inventory has none.
    """
    reading = EstateReading(environment.name)
    # Connections are resolved here, one after the other: task processes share one channel to their supervisor.
    for conn_id in connections_of(environment, build):
        reading.connections[conn_id], reading.logins[conn_id] = connection_type_and_login(conn_id)
    storage = probes.StorageProbe(environment.object_store, environment.name)
    if reading.connections[environment.object_store.conn_id] is not None:
        storage.write()
    try:
        _ask_hosts(reading, HostQuestions(environment, build, storage.transfer_source))
    finally:
        storage.delete()
    if reading.connections[environment.object_store.conn_id] is not None:
        reading.storage = storage.reading()
    _ask_systems(reading, environment)
    reading.backups = read_backups(environment)
    reading.sites, reading.dns = read_sites(environment), read_dns(environment)
    _render_env_files(reading, environment)
    return reading


def connection_type_and_login(conn_id: str) -> tuple[str | None, str]:
    """The type of an Airflow connection, None when there is none, and its login."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None, ""
    return str(connection.conn_type), str(connection.login or "")


def _ask_hosts(reading: EstateReading, questions: HostQuestions) -> None:
    environment, build = questions.environment, questions.build
    groups: list[tuple[Sequence[Host], str, HostQuestions]] = []
    for site in environment.sites:
        place = environment.at_site(site.name)
        # Releases come from the site's own storage, whose round trip is a check of its own.
        source = questions.transfer_source if site.name == environment.active_site else ""
        groups.append((place.active_hosts, place.ssh_conn_id, HostQuestions(place, transfer_source=source)))
    if build is not None:
        groups.append(((build.host,), build.ssh_conn_id, questions))
    for hosts, conn_id, asked in groups:
        if reading.connections.get(conn_id) is None or not hosts:
            continue
        for name, result in _on_hosts(hosts, conn_id, asked).items():
            if isinstance(result, OutsideSystemError):
                result = HostReading(name, error=result, presented_key=_presented_key(result))
            reading.hosts[name] = result


def _on_hosts(
    hosts: Sequence[Host], conn_id: str, questions: HostQuestions
) -> dict[str, HostReading | OutsideSystemError]:
    from airflow.sdk.exceptions import AirflowException

    try:
        return on_hosts(hosts, conn_id, lambda session: read_host(session, questions))
    # The hook refuses a connection that can't be used before it connects: a key that is none, two keys at once.
    except (AirflowException, ValueError) as error:
        reason = f"the connection {conn_id} can't be used ({error})"
        return {host.name: HostUnreachableError(reason, host=host.name) for host in hosts}


def _presented_key(error: OutsideSystemError) -> str:
    """The key that a host showed instead of the inventory's, as the inventory would have it; empty otherwise."""
    import paramiko

    cause = error.__cause__
    if isinstance(cause, paramiko.BadHostKeyException):
        return f"{cause.key.get_name()} {cause.key.get_base64()}"
    return ""


def read_host(session: HostSession, questions: HostQuestions) -> HostReading:
    """Everything that one host says. A script that fails is a complaint; a connection that breaks is an error."""
    host, environment = session.host, questions.environment
    reading = HostReading(host.name)
    reading.clock = read_clock(session, reading)
    is_build = questions.build is not None and questions.build.host.name == host.name
    _run_scripts(session, questions, reading, is_build)
    if is_build:
        return reading
    for service in services_of(host):
        reading.services.append(read_service(session, environment, service))
    if Role.APPLICATION in host.roles:
        application = ApplicationHost(environment, session)
        for color in Color:
            text = application.read_file(application.env_file(color))
            if text is not None:
                reading.env_files[color] = text
    if Role.LOAD_BALANCER in host.roles:
        _probe_color_ports(session, environment, reading)
    return reading


def read_clock(session: HostSession, reading: HostReading) -> ClockReading | None:
    """The host's clock, by the quickest of a few questions: the answer was right at some moment of the question."""
    best: ClockReading | None = None
    for _ in range(CLOCK_READINGS):
        asked, began = time.time(), time.monotonic()
        result = session.run(["date", "+%s.%N"], timeout_seconds=10, check=False)
        took = time.monotonic() - began
        if result.exit_status != 0:
            reading.complaints.append(f"date: {(result.stderr or result.stdout).strip()[:200]}")
            return None
        try:
            skew = float(result.stdout) - (asked + took / 2)
        except ValueError:
            return None
        if best is None or took / 2 < best.uncertainty_seconds:
            best = ClockReading(skew, took / 2)
    return best


def _run_scripts(session: HostSession, questions: HostQuestions, reading: HostReading, is_build: bool) -> None:
    environment, host = questions.environment, session.host
    application, balancing = environment.application, environment.load_balancing
    directories = directories_of(environment, host)
    build = questions.build
    if is_build and build is not None:
        directories = {host.path(build.work_dir): False}
    common = [
        host.path(application.state_dir),
        environment.name,
        *programs_of(host, None if is_build else environment),
        "--",
        *directories,
    ]
    scripts: list[tuple[str, list[str]]] = [("check_host", common)]
    if Role.APPLICATION in host.roles and not is_build:
        ports = [str(entry.process_port) for entry in application.colors.values()]
        paths = [host.path(path) for path in (application.releases_dir, application.colors_dir, application.marker_dir)]
        pm2 = [application.node_bin_dir, host.path(application.pm2_home), application.pm2_path]
        endpoints = [host.address, environment.database.endpoint, environment.cache.address]
        scripts.append(("check_application", [*pm2, *paths, *endpoints, *ports]))
    if Role.LOAD_BALANCER in host.roles and not is_build:
        marker = host.path(f"{application.marker_dir}/current-color")
        files = [host.path(path) for path in (balancing.admin_socket, balancing.map_file)]
        scripts.append(("check_load_balancer", [*files, marker, host.path(balancing.config_file)]))
    if is_build and build is not None:
        scripts.append(("check_build", [host.path(build.repository_path), build.node_bin_dir]))
    for name, arguments in scripts:
        _run_script(session, reading, name, arguments)
    if questions.transfer_source and (is_build or Role.APPLICATION in host.roles):
        result = session.run_script(
            "check_transfer", [], stdin=questions.transfer_source, timeout_seconds=SCRIPT_TIMEOUT_SECONDS, check=False
        )
        reading.texts["check_transfer"] = {"transfer": result.stdout.strip() or result.stderr.strip()}


def _run_script(session: HostSession, reading: HostReading, name: str, arguments: list[str]) -> None:
    result = session.run_script(name, arguments, timeout_seconds=SCRIPT_TIMEOUT_SECONDS, check=False)
    reading.take(name, result.stdout)
    if result.exit_status != 0:
        said = (result.stderr.strip() or "it said nothing")[-200:]
        reading.complaints.append(f"{name} ended with {result.exit_status}: {said}")


def read_service(session: HostSession, environment: Environment, service: Service) -> ServiceReading:
    """What the service manager says of a service, and whether the login may move it."""
    manager = environment.service_manager
    unit = environment.service_unit(service, session.host)
    if manager.kind == "supervisor":
        result = session.run([*manager.control_command, "status", unit], timeout_seconds=15, check=False)
        words = result.stdout.split()
        state = words[1] if words[:1] == [unit] and len(words) > 1 else (result.stderr or result.stdout).strip()[:120]
        return ServiceReading(service.value, unit, state, may_move=True if words[:1] == [unit] else None)
    active = session.run(["systemctl", "is-active", unit], timeout_seconds=15, check=False)
    enabled = session.run(["systemctl", "is-enabled", unit], timeout_seconds=15, check=False)
    state = active.stdout.strip() or active.stderr.strip()[:120]
    return ServiceReading(
        service.value, unit, state, at_boot=enabled.stdout.strip(), may_move=_may_move(session, environment, unit)
    )


def _may_move(session: HostSession, environment: Environment, unit: str) -> bool | None:
    """Whether sudo lets the login move a unit, as sudo itself says; None for a manager that is not called by sudo."""
    program, *arguments = environment.service_manager.control_command
    if program != "sudo":
        return None
    inner = [word for word in arguments if not word.startswith("-")]
    listed = [
        session.run(["sudo", "-n", "-l", *inner, action, unit], timeout_seconds=15, check=False) for action in MOVES
    ]
    return all(result.exit_status == 0 for result in listed)


def _probe_color_ports(session: HostSession, environment: Environment, reading: HostReading) -> None:
    """The colors' ports of all application hosts, as this load balancer meets them."""
    urls = [
        f"http://{host.address}:{ports.port}{environment.application.health_path}"
        for host in environment.hosts_with_role(Role.APPLICATION, include_spare=True)
        for ports in environment.application.colors.values()
    ]
    try:
        reading.answers = LoadBalancer(environment, session).probe(urls, timeout_seconds=5.0)
    except HostUnreachableError:
        raise
    except RemoteCommandError as error:
        reading.complaints.append(str(error).removeprefix(f"{session.host.name}: "))


def _ask_systems(reading: EstateReading, environment: Environment) -> None:
    balancers = [host for host in environment.hosts if Role.LOAD_BALANCER in host.roles and not host.spare]
    reading.tls = [probes.read_tls(environment, host) for host in balancers]
    if reading.connections[environment.database.conn_id] is not None:
        reading.database = probes.read_database(environment)
    monitoring = environment.monitoring
    if monitoring.prometheus_conn_id is not None and reading.connections[monitoring.prometheus_conn_id] is not None:
        reading.metrics = probes.read_metrics(environment)
    if monitoring.alertmanager_conn_id is not None and reading.connections[monitoring.alertmanager_conn_id] is not None:
        reading.alertmanager = probes.read_alertmanager(monitoring.alertmanager_conn_id)
    reading.ledger = probes.read_ledger(environment.name)


def _render_env_files(reading: EstateReading, environment: Environment) -> None:
    """What each env file that was found should be. The texts hold secrets and stay in memory."""
    from airflow.sdk.exceptions import AirflowException

    from sebenza_ops.systems.application_secrets import resolve_secrets

    try:
        for site in environment.sites:
            place = environment.at_site(site.name)
            secrets = resolve_secrets(place)
            for host in place.active_hosts:
                found = reading.hosts[host.name].env_files if host.name in reading.hosts else {}
                for color in found:
                    text = render_env_file(place, color, host, "any", secrets)
                    reading.expected_env_files[host.name, color] = text
    except AirflowException as error:
        reading.secrets_error = str(error)
    except EnvFileError as error:
        reading.secrets_error = str(error)
    # pydantic's message would be of use, but a URL that is wrong may hold a password.
    except ValueError:
        reading.secrets_error = "a connection makes no URL that the application could use"
