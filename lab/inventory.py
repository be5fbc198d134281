"""The inventory, connections and addresses by which Airflow and the tests find the lab.

An environment of the lab is the shipped one (include/environments) with the lab's addresses, host
keys and paths, so that what is rehearsed is what runs in production.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lab import backups, paths, postgres
from lab.accounts import DATABASE_USER, LOGIN_USER, write_as
from lab.addresses import (
    ALERTMANAGER_PORT,
    COLOR_PORTS,
    HOST_NAMES,
    HTTP_PORT,
    HTTPS_PORT,
    MAILBOX_HTTP_PORT,
    MAILBOX_SMTP_PORT,
    NODE_EXPORTER_PORT,
    POSTGRES_PORT,
    PROMETHEUS_PORT,
    SSH_PORT,
    STATS_PORT,
    STORAGE_PORT,
    address,
    endpoint,
)
from lab.configuration import REPLICATION_USER
from lab.hosts import ENVIRONMENTS, LabEnvironment
from lab.secrets import lab_secrets

SHIPPED = paths.CHECKOUT / "include" / "environments"

# A rehearsal must not take as long as the real thing: what a person waits for is shorter in the lab.
_LAB_BLUE_GREEN: dict[str, dict[str, Any]] = {
    "production": {"bake_seconds": 20, "keep_warm_seconds": 60, "hold_timeout_seconds": 60},
    "staging": {"bake_seconds": 10, "keep_warm_seconds": 10, "hold_timeout_seconds": 60},
    "development": {"bake_seconds": 10, "keep_warm_seconds": 10, "hold_timeout_seconds": 60},
}

# The environments with a policy of application backups.
ARCHIVED = ("production", "staging")


def write_all() -> None:
    """Write `.lab/environments`, `.lab/connections.yaml` and `.lab/lab.json`."""
    for environment in ENVIRONMENTS.values():
        _write_yaml(f"{environment.name}.yaml", environment_document(environment))
    _write_yaml("build.yaml", build_document())
    paths.LEDGER_FILE.parent.mkdir(exist_ok=True)
    write_as(paths.CONNECTIONS_FILE, yaml.safe_dump(connections(), sort_keys=False), mode=0o600)
    write_as(paths.LAB_FILE, json.dumps(summary(), indent=1) + "\n")


def _write_yaml(name: str, document: dict[str, Any]) -> None:
    text = "# Written by `python -m lab up`; changes are overwritten.\n" + yaml.safe_dump(document, sort_keys=False)
    write_as(paths.ENVIRONMENTS_DIR / name, text)


def host_key(host: str) -> str:
    """A host's public SSH key, without comment."""
    text = (paths.host_files(host) / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    return " ".join(text.split()[:2])


def _place(host: dict[str, Any]) -> dict[str, Any]:
    """A shipped host, moved into the lab."""
    name = str(host["name"])
    return {
        **host,
        "address": address(name),
        "root_dir": str(paths.host_root(name)),
        "ssh": {"port": SSH_PORT, "host_key": host_key(name)},
    }


def environment_document(environment: LabEnvironment) -> dict[str, Any]:
    """The inventory of one of the lab's environments."""
    document: dict[str, Any] = yaml.safe_load((SHIPPED / f"{environment.name}.yaml").read_text())
    document["hosts"] = [_place(host) for host in document["hosts"]]
    document["application"] = {
        **document["application"],
        "user": LOGIN_USER,
        "colors": {
            color: {"port": ports[0], "process_port": ports[1], "backend": f"bk_{color}"}
            for color, ports in COLOR_PORTS.items()
        },
        "pm2_path": str(paths.PM2),
        "node_bin_dir": str(paths.node_bin_dir()),
    }
    document["load_balancing"] = {
        **document.get("load_balancing", {}),
        "http_port": HTTP_PORT,
        "https_port": HTTPS_PORT,
        "stats_port": STATS_PORT,
        "ca_file": str(paths.CA_FILE),
    }
    document["database"] |= {"endpoint": environment.database_endpoint, "name": environment.database_name}
    document["database"] |= {"port": POSTGRES_PORT, "data_dir": "/var/lib/postgresql/main"}
    document["database"]["config_file"] = "/etc/postgresql/postgresql.conf"
    document["cache"]["address"] = environment.cache_endpoint
    document["monitoring"]["scrape_interval_seconds"] = 1
    document["monitoring"]["prometheus_conn_id"] = "sebenza_prometheus"
    document["alerts_webhook_conn_id"] = f"sebenza_{environment.name}_alerts_webhook"
    document["service_manager"] = {
        "kind": "supervisor",
        "units": {service: service for service in ("haproxy", "nginx", "postgresql", "redis", "pm2")},
    }
    if not paths.GATES_FILE.exists():
        # Unless asked for: rehearsals of the switch would otherwise wait for people.
        for policy in ("deployment", "approvals"):
            document["policies"].pop(policy, None)
    archives = document["policies"].get("application_backup")
    if archives is not None:
        # What starts PM2 on the lab's hosts.
        archives["paths"] = {"application": [{"path": "/etc/sebenza"}]}
        archives["minimum_free_bytes"] = 16 * 1024**2
    backup = document["policies"].get("backup")
    if backup is not None:
        backup |= {"minimum_free_bytes": 64 * 2**20, "timeout_seconds": 600}
    blue_green = document["policies"].get("blue_green")
    if blue_green is not None:
        blue_green |= _LAB_BLUE_GREEN[environment.name]
    rolling = document["policies"].get("rolling")
    if rolling is not None:
        rolling["watch_seconds"] = 5
    return document


def set_gates(on: bool) -> None:
    """Let the lab's environments demand what the shipped ones do before a deployment, or nothing."""
    if on:
        paths.GATES_FILE.touch()
    else:
        paths.GATES_FILE.unlink(missing_ok=True)
    for environment in ENVIRONMENTS.values():
        _write_yaml(f"{environment.name}.yaml", environment_document(environment))


def build_document() -> dict[str, Any]:
    """The build host of the lab."""
    document: dict[str, Any] = yaml.safe_load((SHIPPED / "build.yaml").read_text())
    document["host"] = _place(document["host"])
    document["node_bin_dir"] = str(paths.node_bin_dir())
    return document


def connections() -> dict[str, Any]:
    """The Airflow connections of the lab, in the format of LocalFilesystemBackend."""
    secrets = lab_secrets()
    mailbox = f"http://{endpoint('mailbox', MAILBOX_HTTP_PORT)}"
    found: dict[str, Any] = {
        "sebenza_build_ssh": _ssh(),
        "sebenza_object_store": {
            "conn_type": "aws",
            "login": secrets.storage_key_id,
            "password": secrets.storage_secret,
            "extra": {
                "endpoint_url": f"https://{endpoint('storage', STORAGE_PORT)}",
                "region_name": "us-east-1",
                "verify": str(paths.CA_FILE),
                # Newer boto sends checksums that this server does not take (boto3 issue 4398).
                "config_kwargs": {
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                    "s3": {"addressing_style": "path"},
                    "signature_version": "s3v4",
                },
            },
        },
        "sebenza_production_replication": {
            "conn_type": "postgres",
            "login": REPLICATION_USER,
            "password": secrets.replication,
        },
        "sebenza_prometheus": _http("monitoring", PROMETHEUS_PORT),
        "sebenza_alertmanager": _http("monitoring", ALERTMANAGER_PORT),
        "sebenza_slack": {"conn_type": "slackwebhook", "password": f"{mailbox}/services/{secrets.slack_token}"},
        "sebenza_pagerduty": {
            "conn_type": "pagerduty_events",
            "password": secrets.pagerduty_routing_key,
            "host": mailbox,
        },
        "sebenza_smtp": {
            "conn_type": "smtp",
            "host": address("mailbox"),
            "port": MAILBOX_SMTP_PORT,
            "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "sebenza-ops@sebenza.com"},
        },
        # The sample application takes any token for one of its users.
        "sebenza_staging_smoke": {"conn_type": "generic", "password": "smoke-tests"},
        "sebenza_attestation": {"conn_type": "generic", "password": secrets.attestation_key},
        "ops_ledger": {"conn_type": "sqlite", "host": str(paths.LEDGER_FILE)},
    }
    for environment in ENVIRONMENTS.values():
        found |= _environment_connections(environment, mailbox)
    return found


def storage_client() -> Any:
    """A client of the lab's object storage, with all rights."""
    import boto3
    from botocore.config import Config

    connection = connections()["sebenza_object_store"]
    extra = connection["extra"]
    return boto3.client(
        "s3",
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        verify=extra["verify"],
        config=Config(**extra["config_kwargs"]),
    )


def _backup_connections(environment: LabEnvironment) -> dict[str, Any]:
    if environment not in [backups.environment_of_database(host) for host in environment.database_hosts]:
        return {}
    secrets = lab_secrets()
    repository = {"conn_type": "aws", "login": secrets.storage_backup_key_id, "password": secrets.storage_backup_secret}
    return {
        f"sebenza_{environment.name}_database_ssh": _ssh(DATABASE_USER),
        f"sebenza_{environment.name}_backup_repository": repository,
        f"sebenza_{environment.name}_backup_cipher": {
            "conn_type": "generic",
            "password": secrets.backup_cipher(environment.name),
        },
    }


def _environment_connections(environment: LabEnvironment, mailbox: str) -> dict[str, Any]:
    secrets = lab_secrets()
    archives: dict[str, Any] = {}
    if environment.name in ARCHIVED:
        archives = {
            f"sebenza_{environment.name}_root_ssh": _ssh("root", paths.ARCHIVIST_KEY),
            f"sebenza_{environment.name}_archive_key": {
                "conn_type": "generic",
                "password": secrets.archive(environment.name),
            },
        }
    return {
        **archives,
        **_backup_connections(environment),
        f"sebenza_{environment.name}_ssh": _ssh(),
        f"sebenza_{environment.name}_database": {
            "conn_type": "postgres",
            "host": address(environment.database_host),
            "port": POSTGRES_PORT,
            "login": postgres.application_role(environment),
            "password": secrets.database(environment.name),
            "schema": environment.database_name,
        },
        f"sebenza_{environment.name}_cache": {
            "conn_type": "redis",
            "host": environment.cache_endpoint.rpartition(":")[0],
            "port": int(environment.cache_endpoint.rpartition(":")[2]),
            "password": secrets.cache(environment.name),
        },
        f"sebenza_{environment.name}_alerts_webhook": {
            "conn_type": "http",
            "host": f"{mailbox}/webhook/alerts/{environment.name}",
        },
    }


def _ssh(login: str = LOGIN_USER, key_file: Path = paths.OPERATOR_KEY) -> dict[str, Any]:
    return {
        "conn_type": "ssh",
        "login": login,
        "port": SSH_PORT,
        "extra": {"key_file": str(key_file), "no_host_key_check": False, "allow_host_key_change": False},
    }


def _http(host: str, port: int) -> dict[str, Any]:
    return {"conn_type": "http", "host": f"http://{endpoint(host, port)}"}


def summary() -> dict[str, Any]:
    """What a program beside the lab needs to find it; nothing secret."""
    return {
        "hosts": {host: address(host) for host in HOST_NAMES},
        "ssh": {
            "port": SSH_PORT,
            "user": LOGIN_USER,
            "key_file": str(paths.OPERATOR_KEY),
            "known_hosts": str(paths.KNOWN_HOSTS),
        },
        "ca_file": str(paths.CA_FILE),
        "environments_dir": str(paths.ENVIRONMENTS_DIR),
        "connections_file": str(paths.CONNECTIONS_FILE),
        "environments": {
            environment.name: {
                "hostname": environment.hostname,
                "load_balancers": {
                    host: f"https://{endpoint(host, HTTPS_PORT)}" for host in environment.load_balancers
                },
                "application_hosts": list(environment.application_hosts),
            }
            for environment in ENVIRONMENTS.values()
        },
        "prometheus": f"http://{endpoint('monitoring', PROMETHEUS_PORT)}",
        "alertmanager": f"http://{endpoint('monitoring', ALERTMANAGER_PORT)}",
        "node_exporter": f"http://{endpoint('monitoring', NODE_EXPORTER_PORT)}",
        "mailbox": f"http://{endpoint('mailbox', MAILBOX_HTTP_PORT)}",
        "object_store": {"endpoint": f"https://{endpoint('storage', STORAGE_PORT)}", "bucket": "sebenza"},
    }
