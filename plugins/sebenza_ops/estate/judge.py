"""From what was gathered to the report: every rule applied to everything that it is about. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from sebenza_ops.environments.models import Build, Color, Environment, Host, Role
from sebenza_ops.estate import (
    application_checks,
    backup_checks,
    checks,
    load_balancer_checks,
    site_checks,
    system_checks,
)
from sebenza_ops.estate.findings import EstateReport, Finding, Findings
from sebenza_ops.estate.gathered import EstateReading, HostReading


def judge(
    environment: Environment,
    build: Build | None,
    reading: EstateReading,
    salt: bytes,
    started_at: datetime,
    finished_at: datetime,
) -> EstateReport:
    """The report of one environment.

    Args:
        environment: The inventory's environment.
        build: The build host, None when the inventory has none.
        reading: What was gathered.
        salt: For comparing secrets; a fresh one for each report.
        started_at: When gathering began.
        finished_at: When it had ended.
    """
    balancers = [host.name for host in environment.hosts_with_role(Role.LOAD_BALANCER)]
    colors = load_balancer_checks.running_colors(
        environment, [reading.hosts[name] for name in balancers if name in reading.hosts]
    )
    live = _agreed(colors)
    findings: list[Finding] = [
        *_environment(environment, reading, colors),
        *_hosts(environment, reading, live, salt),
        *_build_host(environment, build, reading),
        *_systems(environment, build, reading, live),
    ]
    for name, backup in reading.backups.items():
        findings += backup_checks.check_backups(environment, environment.host(name), backup).all
    for site in reading.sites:
        place = environment.at_site(site.site)
        for name, backup in site.backups.items():
            findings += backup_checks.check_backups(place, environment.host(name), backup).all
        findings += [finding for found in site_checks.check_site(environment, site) for finding in found.all]
    if reading.dns is not None:
        findings += site_checks.check_dns(environment, reading.dns).all
    for reading_of_tls in reading.tls:
        host = environment.host(reading_of_tls.host)
        findings += load_balancer_checks.check_tls(environment, host, reading_of_tls, finished_at).all
    return EstateReport(
        environment=environment.name, started_at=started_at, finished_at=finished_at, findings=tuple(findings)
    )


def _agreed(colors: dict[str, Color | None]) -> Color | None:
    known = {color for color in colors.values() if color is not None}
    return known.pop() if len(known) == 1 else None


def _environment(environment: Environment, reading: EstateReading, colors: dict[str, Color | None]) -> list[Finding]:
    findings = Findings(environment.name)
    if environment.hosts_with_role(Role.LOAD_BALANCER):
        load_balancer_checks.check_agreement(findings, environment, colors)
    checks.check_clocks_agree(findings, list(reading.hosts.values()))
    return findings.all


def _hosts(environment: Environment, reading: EstateReading, live: Color | None, salt: bytes) -> list[Finding]:
    """Every host of every site. Where nobody is served, no color is live: what runs there is not judged."""
    found: list[Finding] = []
    for site in environment.sites:
        place = environment.at_site(site.name)
        serves = site.name == environment.active_site
        for host in place.active_hosts:
            found += _host(place, host, reading, live if serves else None, salt)
    return found


def _host(
    environment: Environment, host: Host, reading: EstateReading, live: Color | None, salt: bytes
) -> list[Finding]:
    host_reading = reading.hosts.get(host.name)
    if host_reading is None:
        findings = Findings(host.name)
        findings.no_data("access", "not tried: there is no SSH connection", f"the connection {environment.ssh_conn_id}")
        return findings.all
    found = checks.check_host(environment, host, host_reading, reading.logins.get(environment.ssh_conn_id, "")).all
    if host_reading.error is not None:
        return found
    if Role.LOAD_BALANCER in host.roles:
        found += load_balancer_checks.check_load_balancer(environment, host, host_reading).all
    if Role.APPLICATION in host.roles:
        found += application_checks.check_application_host(environment, host, host_reading, live).all
        found += _application_extras(environment, reading, host_reading, live, salt)
    return found


def _application_extras(
    environment: Environment, reading: EstateReading, host_reading: HostReading, live: Color | None, salt: bytes
) -> list[Finding]:
    findings = Findings(host_reading.host)
    host = environment.host(host_reading.host)
    for color in Color:
        url = f"http://{host.address}:{environment.application.colors[color].port}{environment.application.health_path}"
        for balancer in environment.hosts_with_role(Role.LOAD_BALANCER):
            from_balancer = reading.hosts.get(balancer.name)
            answer = from_balancer.answers.get(url) if from_balancer is not None else None
            status = answer[0] if answer is not None else None
            application_checks.check_color_port(findings, environment, color, balancer.name, status, live)
        expected = reading.expected_env_files.get((host.name, color))
        application_checks.check_settings(findings, environment, color, host_reading, expected, live, salt)
    if reading.storage is not None:
        system_checks.check_transfer(findings, reading.storage, host_reading)
    return findings.all


def _build_host(environment: Environment, build: Build | None, reading: EstateReading) -> list[Finding]:
    if build is None:
        findings = Findings("build")
        needed = "a file with kind: build in the inventory, for build_release and deployments"
        findings.missing("build host", "the inventory describes none", needed, "# copy include/environments/build.yaml")
        return findings.all
    findings = Findings(build.host.name)
    host_reading = reading.hosts.get(build.host.name)
    if host_reading is None:
        findings.no_data("access", "not tried: there is no SSH connection", f"the connection {build.ssh_conn_id}")
        return findings.all
    login = reading.logins.get(build.ssh_conn_id, "")
    if not checks.check_access(findings, "build", build.host, host_reading, login):
        return findings.all
    checks.check_programs(findings, build.host, host_reading)
    checks.check_directories(findings, build.host, host_reading, {build.host.path(build.work_dir): False})
    checks.check_clock(findings, build.host, host_reading)
    checks.check_disk(findings, environment, build.host, host_reading)
    system_checks.check_build(findings, build, host_reading, _node_majors(environment, reading))
    if reading.storage is not None:
        system_checks.check_transfer(findings, reading.storage, host_reading)
    return findings.all


def _node_majors(environment: Environment, reading: EstateReading) -> set[int]:
    texts = [
        reading.hosts[host.name].part("check_application", "node")
        for host in environment.hosts_with_role(Role.APPLICATION, include_spare=True)
        if host.name in reading.hosts
    ]
    found = (re.match(r"v(\d+)\.", text) for text in texts)
    return {int(match[1]) for match in found if match is not None}


def _systems(
    environment: Environment, build: Build | None, reading: EstateReading, live: Color | None
) -> list[Finding]:
    storage, database = Findings("object storage"), Findings("database")
    monitoring, airflow = Findings("monitoring"), Findings("airflow")
    if reading.storage is not None:
        system_checks.check_storage(storage, environment, reading.storage)
    if reading.database is not None:
        system_checks.check_database(database, environment, reading.database)
    if environment.monitoring.prometheus_conn_id is None or reading.metrics is not None:
        system_checks.check_metrics(monitoring, environment, reading.metrics, live)
    system_checks.check_alertmanager(monitoring, environment, reading.alertmanager)
    system_checks.check_connections(airflow, environment, build, reading.connections)
    if reading.ledger is not None:
        system_checks.check_ledger(airflow, environment, reading.ledger)
    if reading.secrets_error:
        airflow.missing("application's secrets", reading.secrets_error, "DATABASE_URL, REDIS_URL and ALERTS_WEBHOOK")
    return [*storage.all, *database.all, *monitoring.all, *airflow.all]
