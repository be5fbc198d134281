"""Addresses and ports of the lab: the one place that knows them.

Every host of the lab has an address of its own on the loopback network. The
network can be moved with `SEBENZA_LAB_NET` (three octets, default `127.77.0`)
when another program already uses it.
"""

from __future__ import annotations

import os
from typing import Final

NETWORK: Final = os.environ.get("SEBENZA_LAB_NET") or "127.77.0"

#: Where the lab's Airflow listens: its UI and its API.
AIRFLOW_ADDRESS: Final = "127.0.0.1"
AIRFLOW_DEFAULT_PORT: Final = 8080

#: Whom the lab's databases let in: loopback, or the network that the lab was moved to (a container's).
CLIENT_NETWORK: Final = "127.0.0.0/8" if NETWORK.startswith("127.") else f"{NETWORK}.0/24"

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

# What only a disaster needs: the secondary site, and DNS, which is at neither site.
_LAST_OCTET_OF_SECONDARY: Final[dict[str, int]] = {
    "lb3": 111,
    "app4": 121,
    "dbendpoint2": 130,
    "db3": 131,
    "cache2": 141,
    "storage2": 182,
    "dns1": 191,
    "dns2": 192,
}

#: The hosts of every lab.
HOST_NAMES: Final[tuple[str, ...]] = tuple(_LAST_OCTET)
#: The hosts of a lab that was brought up with its secondary site.
SECONDARY_HOST_NAMES: Final[tuple[str, ...]] = tuple(_LAST_OCTET_OF_SECONDARY)
ALL_HOST_NAMES: Final[tuple[str, ...]] = (*HOST_NAMES, *SECONDARY_HOST_NAMES)

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
DNS_PORT: Final = 5300

# Per color: the port load balancers connect to (Nginx) and the port the processes listen on (PM2).
COLOR_PORTS: Final[dict[str, tuple[int, int]]] = {"blue": (8001, 3001), "green": (8002, 3002)}


def airflow_port() -> int:
    """The port of the lab's Airflow, which `SEBENZA_AIRFLOW_PORT` moves. Raises ValueError: that is no port."""
    text = os.environ.get("SEBENZA_AIRFLOW_PORT") or str(AIRFLOW_DEFAULT_PORT)
    if not text.isdecimal() or not 1024 <= int(text) <= 65535:
        raise ValueError(f"SEBENZA_AIRFLOW_PORT={text!r}: expected a port from 1024 to 65535")
    return int(text)


def network_problem() -> str | None:
    """What is wrong with `SEBENZA_LAB_NET`; None when it is a network."""
    parts = NETWORK.split(".")
    if len(parts) == 3 and all(part.isdecimal() and int(part) <= 255 for part in parts):
        return None
    return f"SEBENZA_LAB_NET={NETWORK!r}: expected the first three numbers of a network, for example 127.78.0"


def address(host: str) -> str:
    """The loopback address of a host of the lab; `KeyError` names an unknown host."""
    try:
        return f"{NETWORK}.{(_LAST_OCTET | _LAST_OCTET_OF_SECONDARY)[host]}"
    except KeyError:
        raise KeyError(f"the lab has no host {host!r}; it has {', '.join(ALL_HOST_NAMES)}") from None


def endpoint(host: str, port: int) -> str:
    """`address:port` of a service on a host of the lab."""
    return f"{address(host)}:{port}"


if __name__ == "__main__":
    print("\n".join(address(host) for host in HOST_NAMES))
