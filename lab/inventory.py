"""The inventory, connections and addresses by which Airflow and the tests find the lab.

An environment of the lab is the shipped one (include/environments) with the lab's addresses, host
keys and paths, so that what is rehearsed is what runs in production.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from lab import nameserver, paths
from lab.accounts import LOGIN_USER, write_as
from lab.addresses import (
    ALERTMANAGER_PORT,
    COLOR_PORTS,
    DNS_PORT,
    HTTP_PORT,
    HTTPS_PORT,
    MAILBOX_HTTP_PORT,
    NODE_EXPORTER_PORT,
    POSTGRES_PORT,
    PROMETHEUS_PORT,
    SSH_PORT,
    STATS_PORT,
    STORAGE_PORT,
    address,
    endpoint,
)
from lab.connections import connections, escrowed_connections, storage_client
from lab.hosts import ENVIRONMENTS, SECONDARY_SITE, LabEnvironment, has_secondary_site, present_hosts
from lab.storage import BUCKET

__all__ = ["connections", "storage_client"]
from lab.secrets import lab_secrets
from sebenza_ops.systems.age import Identity

SHIPPED = paths.CHECKOUT / "include" / "environments"

# A rehearsal must not take as long as the real thing: what a person waits for is shorter in the lab.
_LAB_BLUE_GREEN: dict[str, dict[str, Any]] = {
    "production": {"bake_seconds": 20, "keep_warm_seconds": 60, "hold_timeout_seconds": 60},
    "staging": {"bake_seconds": 10, "keep_warm_seconds": 10, "hold_timeout_seconds": 60},
    "development": {"bake_seconds": 10, "keep_warm_seconds": 10, "hold_timeout_seconds": 60},
}


def write_all() -> None:
    """Write `.lab/environments`, `.lab/connections.yaml` and `.lab/lab.json`."""
    for environment in ENVIRONMENTS.values():
        _write_yaml(f"{environment.name}.yaml", environment_document(environment))
    _write_yaml("build.yaml", build_document())
    paths.LEDGER_FILE.parent.mkdir(exist_ok=True)
    write_as(paths.CONNECTIONS_FILE, yaml.safe_dump(connections(), sort_keys=False), mode=0o600)
    if has_secondary_site():
        text = yaml.safe_dump(escrowed_connections(), sort_keys=False)
        write_as(paths.SECONDARY_CONNECTIONS_FILE, text, mode=0o600)
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
    if len(document["sites"]) > 1:
        _place_sites(document)
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
        "units": {service: service for service in ("haproxy", "nginx", "postgresql", "redis", "pm2", "object-copy")},
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


def _place_sites(document: dict[str, Any]) -> None:
    """The secondary site and DNS as the lab has them; nothing of either where it was brought up without."""
    if not has_secondary_site():
        document["sites"] = [site for site in document["sites"] if site["kind"] == "primary"]
        document["hosts"] = [host for host in document["hosts"] if host.get("site", "primary") == "primary"]
        del document["dns"]
        document["policies"].pop("disaster_recovery", None)
        return
    site = next(site for site in document["sites"] if site["kind"] == "secondary")
    site["database"]["endpoint"] = SECONDARY_SITE.database_endpoint
    site["cache"]["address"] = SECONDARY_SITE.cache_endpoint
    site["object_store"]["bucket"] = BUCKET
    site["copy_seconds"] = 30
    escrow = document["policies"]["disaster_recovery"]["escrow"]
    escrow["recipient"] = Identity(lab_secrets().escrow_identity).recipient
    storage = {"name": SECONDARY_SITE.storage_host, "site": site["name"], "roles": ["object_store"]}
    document["hosts"].append(storage)
    document["dns"] |= {
        "servers": [endpoint(nameserver.AUTHORITATIVE, DNS_PORT)],
        "resolvers": [endpoint(nameserver.RESOLVER, DNS_PORT)],
        "ttl_seconds": nameserver.TTL_SECONDS,
        "ttl_before_switch_seconds": nameserver.TTL_BEFORE_SWITCH_SECONDS,
        "propagation_timeout_seconds": 60,
    }


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


def summary() -> dict[str, Any]:
    """What a program beside the lab needs to find it; nothing secret."""
    return {
        "hosts": {host: address(host) for host in present_hosts()},
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
        **(_summary_of_secondary_site() if has_secondary_site() else {}),
    }


def _summary_of_secondary_site() -> dict[str, Any]:
    place = SECONDARY_SITE
    return {
        "secondary_site": {
            "load_balancers": {host: f"https://{endpoint(host, HTTPS_PORT)}" for host in place.load_balancers},
            "application_hosts": list(place.application_hosts),
            "object_store": {"endpoint": f"https://{endpoint(place.storage_host, STORAGE_PORT)}", "bucket": BUCKET},
            "connections_file": str(paths.SECONDARY_CONNECTIONS_FILE),
        },
        "dns": {
            "server": endpoint(nameserver.AUTHORITATIVE, DNS_PORT),
            "resolver": endpoint(nameserver.RESOLVER, DNS_PORT),
            "zone": nameserver.ZONE,
        },
    }
