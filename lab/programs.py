"""What the service manager of each host runs: commands, accounts, stop signals."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Final

from lab import paths
from lab.accounts import DNS_USER, LOGIN_USER, RESOLVER_USER
from lab.addresses import (
    ALERTMANAGER_PORT,
    MAILBOX_HTTP_PORT,
    MAILBOX_SMTP_PORT,
    NODE_EXPORTER_PORT,
    PROMETHEUS_PORT,
    address,
)
from lab.hosts import SERVICES

# In the environment of every process of a host: how a process whose parent died is recognized.
MARKER_VARIABLE: Final = "SEBENZA_LAB_HOST"
# Processes of these programs overwrite their environment, where the marker is; they are told by where they work.
RETITLED: Final = frozenset({"postgres", "nginx", "haproxy", "sshd", "redis-server"})


@dataclass(frozen=True)
class Program:
    """One service of a host."""

    name: str
    command: str
    user: str = "root"
    autostart: bool = True
    """False for what needs other hosts first; the lab starts it in its turn."""
    stop_signal: str = "TERM"
    stop_wait_seconds: int = 10
    environment: dict[str, str] = field(default_factory=dict)


def marker(host: str) -> str:
    """The value of the marker variable for a host of this lab."""
    return f"{host}@{paths.LAB_DIR}"


def _sshd(host: str) -> Program:
    # An absolute path of the configuration: sshd re-executes itself for every connection.
    return Program("sshd", f"{paths.program('sshd')} -D -e -f {paths.host_root(host)}/etc/ssh/sshd_config")


def _haproxy(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "haproxy",
        f"{paths.program('haproxy')} -W -f {root}/etc/haproxy/haproxy.cfg -p {root}/run/haproxy/haproxy.pid",
    )


def _database_endpoint(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "database-endpoint",
        f"{paths.program('haproxy')} -W -f {root}/etc/haproxy/database.cfg -p {root}/run/haproxy/database.pid",
    )


def _nginx(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "nginx",
        f"{paths.program('nginx')} -p {root} -e {root}/var/log/nginx/error.log -c {root}/etc/nginx/nginx.conf",
        stop_signal="QUIT",
        stop_wait_seconds=3,
    )


def _pm2(host: str) -> Program:
    root = paths.host_root(host)
    home = root / "home" / LOGIN_USER
    return Program(
        "pm2",
        f"/bin/sh {root}/etc/sebenza/pm2-host.sh",
        user=LOGIN_USER,
        autostart=False,
        environment={
            "HOME": str(home),
            "PM2_HOME": str(home / ".pm2"),
            "PATH": f"{paths.node_bin_dir()}:/usr/bin:/bin",
        },
        # Longer than the application's kill_timeout: PM2 stops its processes first.
        stop_wait_seconds=40,
    )


def _postgresql(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "postgresql",
        f"/bin/sh {root}/etc/postgresql/postgresql.sh",
        user="postgres",
        autostart=False,
        # Fast shutdown: sessions are closed, a checkpoint is written.
        stop_signal="INT",
        stop_wait_seconds=20,
    )


def _redis(host: str) -> Program:
    return Program(
        "redis", f"{paths.program('redis-server')} {paths.host_root(host)}/etc/redis/redis.conf", user="redis"
    )


def _rclone(host: str) -> Program:
    return Program(
        "rclone",
        f"/bin/sh {paths.host_root(host)}/etc/rclone/serve.sh",
        user=LOGIN_USER,
        stop_wait_seconds=3,
    )


def _prometheus(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "prometheus",
        f"{paths.program('prometheus')} --config.file={root}/etc/prometheus/prometheus.yml"
        f" --storage.tsdb.path={root}/var/lib/prometheus --storage.tsdb.retention.time=7d"
        f" --web.listen-address={address(host)}:{PROMETHEUS_PORT} --web.enable-lifecycle"
        # With a scrape each second, a value older than this is stale, not "still true".
        " --query.lookback-delta=10s --log.level=warn",
        user="prometheus",
        stop_wait_seconds=5,
    )


def _alertmanager(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "alertmanager",
        f"{paths.program('prometheus-alertmanager')} --config.file={root}/etc/alertmanager/alertmanager.yml"
        f" --storage.path={root}/var/lib/alertmanager --cluster.listen-address="
        f" --web.listen-address={address(host)}:{ALERTMANAGER_PORT} --log.level=warn",
        user="prometheus",
        stop_wait_seconds=5,
    )


def _node_exporter(host: str) -> Program:
    return Program(
        "node-exporter",
        f"{paths.program('prometheus-node-exporter')}"
        f" --web.listen-address={address(host)}:{NODE_EXPORTER_PORT} --log.level=warn",
        user="prometheus",
        stop_wait_seconds=3,
    )


def _mailbox(host: str) -> Program:
    root = paths.host_root(host)
    return Program(
        "mailbox",
        f"{sys.executable} -m lab.mailbox --listen {address(host)} --http-port {MAILBOX_HTTP_PORT}"
        f" --smtp-port {MAILBOX_SMTP_PORT} --state {root}/var/lib/mailbox",
        environment={"PYTHONPATH": str(paths.CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        stop_wait_seconds=3,
    )


def _object_copy(host: str) -> Program:
    return Program(
        "object-copy", f"/bin/sh {paths.host_root(host)}/etc/object-copy/copy.sh", user=LOGIN_USER, stop_wait_seconds=3
    )


def _knot(host: str) -> Program:
    # Without -d it stays in the foreground.
    return Program(
        "knot",
        f"{paths.program('knotd')} -c {paths.host_root(host)}/etc/knot/knot.conf",
        user=DNS_USER,
        stop_wait_seconds=5,
    )


def _unbound(host: str) -> Program:
    return Program(
        "unbound",
        f"{paths.program('unbound')} -d -c {paths.host_root(host)}/etc/unbound/unbound.conf",
        user=RESOLVER_USER,
        stop_wait_seconds=5,
    )


_PROGRAMS: Final = {
    "sshd": _sshd,
    "haproxy": _haproxy,
    "database-endpoint": _database_endpoint,
    "nginx": _nginx,
    "pm2": _pm2,
    "postgresql": _postgresql,
    "redis": _redis,
    "rclone": _rclone,
    "prometheus": _prometheus,
    "alertmanager": _alertmanager,
    "node-exporter": _node_exporter,
    "mailbox": _mailbox,
    "object-copy": _object_copy,
    "knot": _knot,
    "unbound": _unbound,
}


def programs(host: str) -> list[Program]:
    """The services of a host, in the order in which they start."""
    return [_PROGRAMS[service](host) for service in SERVICES[host]]
