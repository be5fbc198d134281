"""The Airflow connections of the lab: all of them, and those that are left when the primary site is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab import backups, nameserver, paths, postgres
from lab.accounts import DATABASE_USER, LOGIN_USER
from lab.addresses import (
    ALERTMANAGER_PORT,
    DNS_PORT,
    MAILBOX_HTTP_PORT,
    MAILBOX_SMTP_PORT,
    POSTGRES_PORT,
    PROMETHEUS_PORT,
    REDIS_PORT,
    SSH_PORT,
    STORAGE_PORT,
    address,
    endpoint,
)
from lab.configuration import REPLICATION_USER
from lab.hosts import ENVIRONMENTS, SECONDARY_SITE, LabEnvironment, has_secondary_site
from lab.secrets import lab_secrets

# The environments with a policy of application backups.
ARCHIVED = ("production", "staging")


def connections() -> dict[str, Any]:
    """The Airflow connections of the lab, in the format of LocalFilesystemBackend."""
    secrets = lab_secrets()
    mailbox = f"http://{endpoint('mailbox', MAILBOX_HTTP_PORT)}"
    found: dict[str, Any] = {
        "sebenza_build_ssh": _ssh(),
        "sebenza_object_store": _storage("storage", secrets.storage_key_id, secrets.storage_secret),
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
    return found | (_secondary_connections() if has_secondary_site() else {})


def _storage(host: str, key_id: str, secret: str) -> dict[str, Any]:
    return {
        "conn_type": "aws",
        "login": key_id,
        "password": secret,
        "extra": {
            "endpoint_url": f"https://{endpoint(host, STORAGE_PORT)}",
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
    }


def _secondary_connections() -> dict[str, Any]:
    """What the secondary site and DNS need beside the environment's own."""
    secrets, place = lab_secrets(), SECONDARY_SITE
    key_id, secret = secrets.storage_backup_key(place.storage_host)
    return {
        "sebenza_production_secondary_database": _database(place),
        "sebenza_production_secondary_cache": _cache(place),
        "sebenza_secondary_object_store": _storage(
            place.storage_host, secrets.storage2_key_id, secrets.storage2_secret
        ),
        "sebenza_production_secondary_backup_repository": {"conn_type": "aws", "login": key_id, "password": secret},
        "sebenza_production_escrow_identity": {"conn_type": "generic", "password": secrets.escrow_identity},
        "sebenza_dns": {
            "conn_type": "generic",
            "host": address(nameserver.AUTHORITATIVE),
            "port": DNS_PORT,
            "login": nameserver.KEY_NAME,
            "password": secrets.dns_key,
        },
    }


def _database(place: LabEnvironment) -> dict[str, Any]:
    return {
        "conn_type": "postgres",
        "host": address(place.database_host),
        "port": POSTGRES_PORT,
        "login": postgres.application_role(place),
        "password": lab_secrets().database(place.name),
        "schema": place.database_name,
    }


def _cache(place: LabEnvironment) -> dict[str, Any]:
    return {
        "conn_type": "redis",
        "host": address(place.cache_host),
        "port": REDIS_PORT,
        "password": lab_secrets().cache(place.name),
    }


# What leads to the primary site: gone with it, so that whoever recovers can't depend on it.
_OF_PRIMARY_SITE = (
    "sebenza_build_ssh",
    "sebenza_object_store",
    "sebenza_production_database",
    "sebenza_production_cache",
    "sebenza_production_backup_repository",
    "sebenza_prometheus",
    "sebenza_alertmanager",
    "ops_ledger",
)


def escrowed_connections() -> dict[str, Any]:
    """The connections that are kept at the secondary site: what a recovery from there has, and nothing more."""
    kept = {name: value for name, value in connections().items() if name not in _OF_PRIMARY_SITE}
    ledger = paths.SECONDARY_CONNECTIONS_FILE.with_name("ledger.db")
    return {
        **{name: value for name, value in kept.items() if "staging" not in name and "development" not in name},
        "ops_ledger": {"conn_type": "sqlite", "host": str(ledger)},
    }


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
        f"sebenza_{environment.name}_database": _database(environment),
        f"sebenza_{environment.name}_cache": _cache(environment),
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
