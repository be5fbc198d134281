"""Addresses and ports of the lab: the one place that knows them.

Every host of the lab has an address of its own on the loopback network. The
network can be moved with `SEBENZA_LAB_NET` (three octets, default `127.77.0`)
when another program already uses it.
"""

from __future__ import annotations

import os
from typing import Final

NETWORK: Final = os.environ.get("SEBENZA_LAB_NET", "127.77.0")

_LAST_OCTET: Final[dict[str, int]] = {
    "lb1": 11,
    "lb2": 12,
    "app1": 21,
    "app2": 22,
    "app3": 23,
    "dbendpoint": 30,
    "db1": 31,
    "db2": 32,
    "cache": 41,
    "staging": 51,
    "development": 61,
    "build": 71,
    "monitoring": 81,
    "storage": 82,
    "mailbox": 83,
}

HOST_NAMES: Final[tuple[str, ...]] = tuple(_LAST_OCTET)

SSH_PORT: Final = 2222
HTTPS_PORT: Final = 8443
HTTP_PORT: Final = 8080
STATS_PORT: Final = 8404
POSTGRES_PORT: Final = 5432
REDIS_PORT: Final = 6379
STORAGE_PORT: Final = 9000
PROMETHEUS_PORT: Final = 9090
ALERTMANAGER_PORT: Final = 9093
NODE_EXPORTER_PORT: Final = 9100
MAILBOX_HTTP_PORT: Final = 8025
MAILBOX_SMTP_PORT: Final = 2525

# Per color: the port load balancers connect to (Nginx) and the port the processes listen on (PM2).
COLOR_PORTS: Final[dict[str, tuple[int, int]]] = {"blue": (8001, 3001), "green": (8002, 3002)}


def address(host: str) -> str:
    """The loopback address of a host of the lab; `KeyError` names an unknown host."""
    try:
        return f"{NETWORK}.{_LAST_OCTET[host]}"
    except KeyError:
        raise KeyError(f"the lab has no host {host!r}; it has {', '.join(HOST_NAMES)}") from None


def endpoint(host: str, port: int) -> str:
    """`address:port` of a service on a host of the lab."""
    return f"{address(host)}:{port}"


if __name__ == "__main__":
    print("\n".join(address(host) for host in HOST_NAMES))
