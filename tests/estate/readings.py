"""An environment in which nothing is missing, as its hosts would describe it: tests break one thing of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sebenza_ops.environments.env_file import ApplicationSecrets, render_env_file
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Build, Color, Environment, Host, Role
from sebenza_ops.estate.checks import directories_of, programs_of, services_of
from sebenza_ops.estate.findings import EstateReport, Finding, Verdict
from sebenza_ops.estate.gathered import (
    BackupReading,
    ClockReading,
    DatabaseReading,
    DnsReading,
    DnsRecordReading,
    EscrowReading,
    EstateReading,
    HostReading,
    LedgerReading,
    MetricsReading,
    ServiceReading,
    SiteReading,
    StorageReading,
    TlsReading,
)
from sebenza_ops.estate.judge import judge
from sebenza_ops.estate.system_checks import CONNECTION_OPTIONS, connections_of
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.dns_records import Answer, RecordSet
from tests.environments.inventory_files import SHIPPED

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
PASSWORD = "correct-horse-battery"
RELEASE = "v1.0.0-0a1b2c3d4e5f"
SHA256 = "a" * 64


def production() -> Environment:
    return load_inventory(SHIPPED).environments["production"]


def build_host() -> Build:
    build = load_inventory(SHIPPED).build
    assert build is not None
    return build


def secrets() -> ApplicationSecrets:
    return ApplicationSecrets.model_validate(
        {
            "database_url": f"postgresql://sebenza:{PASSWORD}@db.sebenza.com:5432/sebenza_logistics",
            "cache_url": f"redis://:{PASSWORD}@192.0.2.41:6379/0",
            "alerts_webhook": "https://alerts.sebenza.com/hook",
        }
    )


def healthy() -> EstateReading:
    """What is gathered when everything is as it should be."""
    environment, build = production(), build_host()
    reading = EstateReading("production")
    for conn_id, kind in connections_of(environment, build).items():
        reading.connections[conn_id] = CONNECTION_OPTIONS[kind][0][0]
        reading.logins[conn_id] = "sebenza"
    for host in environment.hosts:
        place = environment.at_site(host.site)
        reading.hosts[host.name] = _host(place, host)
        for color in reading.hosts[host.name].env_files:
            text = render_env_file(place, color, host, "any", secrets())
            reading.expected_env_files[host.name, color] = text
    reading.hosts[build.host.name] = _build(build)
    reading.tls = [
        TlsReading(
            host.name,
            reachable=True,
            expires_at=NOW + timedelta(days=60),
            versions={"TLS 1.0": False, "TLS 1.1": False, "TLS 1.2": True, "TLS 1.3": True},
            redirect="https://app.sebenza.com/",
        )
        for host in environment.hosts
        if Role.LOAD_BALANCER in host.roles
    ]
    reading.storage = _storage("https://storage.sebenza.com")
    reading.database = DatabaseReading(
        "db.sebenza.com:5432",
        version=150008,
        replicas=1,
        max_connections=200,
        may_create=True,
        schema_revision=1,
    )
    reading.metrics = MetricsReading(series={"blue": (RELEASE,)}, age_seconds={"blue": 4.0}, load_balancer_series=3)
    reading.alertmanager = ""
    reading.ledger = LedgerReading()
    for host in environment.hosts_with_role(Role.DATABASE):
        reading.backups[host.name] = _backups(host, is_replica=host.name == "db2")
    reading.sites, reading.dns = [_secondary(environment)], _dns()
    return reading


def _storage(endpoint: str) -> StorageReading:
    return StorageReading(endpoint, True, dict.fromkeys(("write", "read", "sign", "delete"), ""), SHA256)


def _secondary(environment: Environment) -> SiteReading:
    place = environment.at_site("secondary")
    return SiteReading(
        "secondary",
        primaries={"db1": database_state("db1", in_recovery=False), "db2": database_state("db2", in_recovery=True)},
        standbys={"db3": database_state("db3", in_recovery=True)},
        storage=_storage("https://storage2.sebenza.com"),
        copy_seconds=4.0,
        escrow=EscrowReading("escrow/production.yaml.age", 3 * 86400.0),
        backups={host.name: _backups(host, is_replica=True) for host in place.hosts_with_role(Role.DATABASE)},
    )


def database_state(host: str, *, in_recovery: bool, lsn: int = 5000, **changes: Any) -> ServerState:
    """A database server that answers; as a replica it streams."""
    known: dict[str, Any] = {
        "host": host,
        "running": "yes",
        "detail": "",
        "has_signal": in_recovery,
        "control_state": "in production",
        "checkpoint_lsn": 4000,
        "system_identifier": "7712190945164751125",
        "timeline": 1,
        "in_recovery": in_recovery,
        "lsn": lsn,
        "receiver": {"status": "streaming", "host": "db.sebenza.com", "slot": ""} if in_recovery else None,
    }
    return ServerState(**(known | changes))


def _dns() -> DnsReading:
    record = RecordSet("app.sebenza.com", ("192.0.2.11", "192.0.2.12"), 300)
    servers = ("192.0.2.53:53", "198.51.100.53:53", "9.9.9.9:53", "1.1.1.1:53")
    answers = {server: Answer(record.values, 100) for server in servers}
    return DnsReading(records={record.name: DnsRecordReading(record, answers=answers)})


def report(reading: EstateReading, environment: Environment | None = None) -> EstateReport:
    return judge(environment or production(), build_host(), reading, b"salt", NOW, NOW + timedelta(seconds=9))


def broken(reading: EstateReading, environment: Environment | None = None) -> list[Finding]:
    """Everything that is not ok."""
    return [finding for finding in report(reading, environment).findings if finding.verdict is not Verdict.OK]


OTHER_SITE = {"primary": ("198.51.100.33:5432",), "secondary": ("192.0.2.31:5432", "192.0.2.32:5432")}


def _backups(host: Host, *, is_replica: bool) -> BackupReading:
    info = {
        "archive": [{"id": "15-1", "min": "000000010000000000000001", "max": "000000010000000000000008"}],
        "backup": [],
        "cipher": "aes-256-cbc",
        "db": [{"id": 1, "system-id": 7712190945164751125, "version": "15"}],
        "name": "main",
        "status": {"code": 2, "lock": {"backup": {"held": False}}, "message": "no valid backups"},
    }
    parts = {
        "programs": "pgbackrest\t/usr/bin/pgbackrest\ncheck_pgbackrest\t/usr/bin/check_pgbackrest",
        "version": "pgBackRest 2.45",
        "config": "postgres 640",
        "work_dir": "postgres 750",
        "beside": "writable",
        "guard": f"1764126000\n1764125998 {' '.join(OTHER_SITE[host.site])}",
        "settings": "archive_command\tpgbackrest --stanza=main archive-push %p\narchive_mode\ton\narchive_timeout\t60\n"
        "data_checksums\ton\nhot_standby_feedback\ton\nwal_level\treplica\n"
        f"in_recovery\t{str(is_replica).lower()}\nsuperuser\ttrue",
        "info": json.dumps([info]),
    }
    return BackupReading(host.name, parts=parts, cipher_matches=True, key_matches=True)


def _host(environment: Environment, host: Host) -> HostReading:
    reading = HostReading(host.name, clock=ClockReading(0.01, 0.02))
    directories = directories_of(environment, host)
    reading.texts["check_host"] = {
        "identity": "sebenza sebenza",
        "programs": "\n".join(f"{name}\t/usr/bin/{name}" for name in programs_of(host, environment)),
        "sync": "yes",
        "temporary": "/tmp yes",
        "directories": "\n".join(f"{path}\t{path}\tyes\tsebenza:sebenza 755" for path in directories),
        "disk": "\n".join(f"{path}\t41152736 9876543 29153296 /" for path in ("/", *directories)),
        "fence": "12 deploy_blue_green.production/manual 2026-11-20T10:00:00Z",
    }
    reading.services = [
        ServiceReading(service.value, environment.service_unit(service, host), "active", "enabled", True)
        for service in services_of(host)
    ]
    if Role.APPLICATION in host.roles:
        _application(environment, host, reading)
    if Role.LOAD_BALANCER in host.roles:
        _load_balancer(environment, reading)
    return reading


def _application(environment: Environment, host: Host, reading: HostReading) -> None:
    one = {"name": "sebenza-blue", "status": "online", "restarts": 0, "cwd": f"/srv/sebenza/releases/{RELEASE}"}
    idle = host.spare or not environment.serves
    database = "answered S" if environment.serves else "closed"
    running = [] if idle else [{**one, "pid": 11}, {**one, "pid": 12}]
    reading.texts["check_application"] = {
        "node": "v18.20.4",
        "pm2": "5.4.2",
        "daemon": "900 sebenza yes",
        "daemons": "    900 sebenza  PM2 v5.4.2: God Daemon (/home/sebenza/.pm2)",
        "processes": json.dumps(running),
        "saved": json.dumps([{"name": each["name"], "cwd": each["cwd"]} for each in running]),
        "releases": f"81920\t/srv/sebenza/releases/{RELEASE}",
        "env_files": "" if idle else "blue sebenza 600",
        "marker": "blue",
        "last_good": RELEASE,
        "reach": f"database {database}\ncache answered -NOAUTH Authentication required.\n"
        f"port 3001 {'refused' if idle else 'open'}\nport 3002 refused",
    }
    reading.texts["check_transfer"] = {"transfer": f"0 200 {SHA256}"}
    if not idle:
        reading.env_files[Color.BLUE] = render_env_file(environment, Color.BLUE, host, RELEASE, secrets())


CONFIG = """
global
    stats socket /run/haproxy/admin.sock mode 660 user haproxy group sebenza level admin
frontend fe_https
    bind :443 ssl crt /etc/haproxy/certs/site.pem
    use_backend %[str(active),map(/etc/haproxy/maps/color.map,bk_none)]
backend bk_blue
backend bk_green
"""


def _load_balancer(environment: Environment, reading: HostReading) -> None:
    state = ["1", "# be_id be_name srv_id srv_name srv_addr srv_port"]
    stat = ["# pxname,svname,status,scur,type"]
    for number, (color, ports) in enumerate(environment.application.colors.items()):
        for host in environment.hosts_with_role(Role.APPLICATION):
            state.append(f"{number} {ports.backend} 1 {host.name} {host.address} {ports.port}")
            up = color is Color.BLUE and environment.serves
            stat.append(f"{ports.backend},{host.name},{'UP' if up else 'DOWN'},0,2")
        stat.append(f"{ports.backend},BACKEND,UP,0,1")
    reading.texts["check_load_balancer"] = {
        "socket": "yes haproxy:sebenza 660",
        "level": "admin",
        "info": "Version: 2.6.12-1+deb12u4\nUptime_sec: 5000",
        "maps": "0 (/etc/haproxy/maps/color.map) pattern loaded from file '/etc/haproxy/maps/color.map'",
        "map": "0x55d0c8 active bk_blue",
        "stat": "\n".join(stat),
        "servers": "\n".join(state),
        "file": "active bk_blue",
        "marker": "blue",
        "config": CONFIG,
    }
    for host in environment.hosts_with_role(Role.APPLICATION, include_spare=True):
        for color, ports in environment.application.colors.items():
            status = 200 if color is Color.BLUE and not host.spare and environment.serves else 502
            reading.answers[f"http://{host.address}:{ports.port}/health"] = (status, "")


def _build(build: Build) -> HostReading:
    reading = HostReading(build.host.name, clock=ClockReading(-0.01, 0.02))
    reading.texts["check_host"] = {
        "identity": "sebenza sebenza",
        "programs": "\n".join(f"{name}\t/usr/bin/{name}" for name in programs_of(build.host)),
        "sync": "yes",
        "temporary": "/tmp yes",
        "directories": f"{build.work_dir}\t{build.work_dir}\tyes\tsebenza:sebenza 755",
        "disk": "/\t41152736 9876543 29153296 /",
        "fence": "!none",
    }
    reading.texts["check_build"] = {
        "git": "git version 2.39.5",
        "repository": "tags 10",
        "node": "v18.20.4",
        "npm": "9.2.0",
    }
    reading.texts["check_transfer"] = {"transfer": f"0 200 {SHA256}"}
    return reading
