"""Writes the monitoring host's configuration from the templates in include/monitoring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import jinja2

from lab import addresses, paths
from lab.accounts import write_as
from lab.secrets import LabSecrets, lab_secrets

TEMPLATES: Final = paths.CHECKOUT / "include" / "monitoring"
ENVIRONMENTS: Final = ("production", "staging", "development")

# Objectives and thresholds of the manual: "Key Metrics" and "Critical Alerts". The replication lag
# has no number there; a twelfth of the recovery point objective of one hour leaves time to act.
THRESHOLDS: Final[dict[str, float]] = {
    "error_ratio": 0.05,
    "p95_seconds": 2,
    "database_connections": 80,
    "cpu_ratio": 0.80,
    "memory_ratio": 0.85,
    "disk_ratio": 0.90,
    "replication_lag_seconds": 300,
}

# The timing that the manual gives; what it leaves open (load balancers, system) is 5 minutes at most.
PRODUCTION_TIMING: Final[dict[str, Any]] = {
    "window": "5m",
    "live_window": "1m",
    "system_window": "5m",
    "pending": {
        "application_down": "1m",
        "error_rate": "2m",
        "response_time": "5m",
        "connections": "5m",
        "system": "5m",
        "infrastructure": "1m",
    },
}

# The lab's time runs faster: it is scraped every second instead of every 10 to 15, and a
# rehearsal must not wait minutes for an alert to fire, or for one to end.
LAB_TIMING: Final[dict[str, Any]] = {
    "window": "30s",
    "live_window": "10s",
    "system_window": "5m",
    "pending": {
        "application_down": "15s",
        "error_rate": "10s",
        "response_time": "30s",
        "connections": "30s",
        "system": "5m",
        "infrastructure": "20s",
    },
}

# Routes that only probes and scrapers ask for.
OWN_ROUTES: Final = "/health|/metrics|/version"
# Below this a single failed request is a high ratio.
MINIMUM_REQUESTS_PER_SECOND: Final = 1


def template_environment() -> jinja2.Environment:
    """Jinja with square delimiters (Prometheus' own templates use braces); an unknown variable is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
    )


def rules(timing: dict[str, Any], *, databases: bool = False) -> str:
    """The text of alert_rules.yml for the manual's environments with the given timing."""
    return (
        template_environment()
        .get_template("alert_rules.yml.j2")
        .render(
            environments=ENVIRONMENTS,
            thresholds=THRESHOLDS,
            minimum_requests_per_second=MINIMUM_REQUESTS_PER_SECOND,
            own_routes=OWN_ROUTES,
            databases=databases,
            **timing,
        )
    )


def prometheus() -> str:
    """The text of the lab's prometheus.yml."""
    return (
        template_environment()
        .get_template("prometheus.yml.j2")
        .render(
            scrape_interval="1s",
            scrape_timeout="1s",
            evaluation_interval="1s",
            # Half of the lookback that the lab's Prometheus runs with: what is scraped stays known.
            slow_scrape_interval="5s",
            rule_file="alert_rules.yml",
            applications=_application_targets(),
            load_balancers=_load_balancer_targets(),
            nodes=[_node_target()],
            databases=[],
            prometheus=addresses.endpoint("monitoring", addresses.PROMETHEUS_PORT),
            alertmanagers=[{"address": addresses.endpoint("monitoring", addresses.ALERTMANAGER_PORT)}],
        )
    )


def alertmanager(secrets_dir: Path) -> str:
    """The text of the lab's alertmanager.yml, which reads its secrets from files in `secrets_dir`."""
    mailbox = f"http://{addresses.endpoint('mailbox', addresses.MAILBOX_HTTP_PORT)}"
    return (
        template_environment()
        .get_template("alertmanager.yml.j2")
        .render(
            secrets_dir=secrets_dir,
            pagerduty_url=f"{mailbox}/v2/enqueue",
            smtp={
                "host_port": addresses.endpoint("mailbox", addresses.MAILBOX_SMTP_PORT),
                "from": "alertmanager@sebenza.com",
                "user": "",
                "require_tls": False,
            },
            email={"critical": "oncall@company.com", "warning": "devops@company.com"},
            slack_channels={"critical": "#alerts-critical", "warning": "#alerts-warning"},
            heartbeat_url=f"{mailbox}/webhook/watchdog",
            intervals={"group_wait": "1s", "group_interval": "5s", "repeat_interval": "4h", "heartbeat": "5m"},
        )
    )


def render(estate: Path, secrets: LabSecrets | None = None) -> None:
    """Write the monitoring host's configuration below `estate` (the lab's directory).

    Writes prometheus.yml and alert_rules.yml to hosts/monitoring/etc/prometheus, and
    alertmanager.yml with its secret files (owner only) to hosts/monitoring/etc/alertmanager.
    """
    known = secrets or lab_secrets()
    etc = estate / "hosts" / "monitoring" / "etc"
    prometheus_dir, alertmanager_dir = etc / "prometheus", etc / "alertmanager"
    secrets_dir = alertmanager_dir / "secrets"
    for directory in (prometheus_dir, secrets_dir):
        directory.mkdir(parents=True, exist_ok=True)
    (prometheus_dir / "prometheus.yml").write_text(prometheus())
    (prometheus_dir / "alert_rules.yml").write_text(rules(LAB_TIMING))
    (alertmanager_dir / "alertmanager.yml").write_text(alertmanager(secrets_dir))
    mailbox = f"http://{addresses.endpoint('mailbox', addresses.MAILBOX_HTTP_PORT)}"
    # Alertmanager runs as this account and is the only reader.
    write_as(secrets_dir / "pagerduty_routing_key", known.pagerduty_routing_key, "prometheus", 0o600)
    write_as(secrets_dir / "slack_api_url", f"{mailbox}/services/{known.slack_token}", "prometheus", 0o600)


def _application_targets() -> list[dict[str, str]]:
    hosts = {"app1": "production", "app2": "production", "staging": "staging", "development": "development"}
    return [
        {"address": addresses.endpoint(host, port), "environment": environment, "color": color, "host": host}
        for host, environment in hosts.items()
        for color, (port, _process_port) in addresses.COLOR_PORTS.items()
    ]


def _load_balancer_targets() -> list[dict[str, str]]:
    hosts = {"lb1": "production", "lb2": "production", "staging": "staging", "development": "development"}
    return [
        {
            "address": addresses.endpoint(host, addresses.STATS_PORT),
            "environment": environment,
            "load_balancer": host,
        }
        for host, environment in hosts.items()
    ]


def _node_target() -> dict[str, str]:
    # Every host of the lab is the same machine: one exporter speaks for all.
    return {
        "address": addresses.endpoint("monitoring", addresses.NODE_EXPORTER_PORT),
        "environment": "production",
        "host": "monitoring",
    }
