"""Environments for tests: the shipped inventory, with hosts where a test's own servers listen."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment, Host

SHIPPED = Path(__file__).resolve().parents[2] / "include" / "environments"
AN_HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEUwWiweqKzw9YkqAY3Be5Y5nnTROzdscJOe5KW8Cf4r"


@cache
def shipped(name: str) -> Environment:
    """An environment as the project ships it."""
    return load_inventory(SHIPPED).environments[name]


def changed(name: str, **values: Any) -> Environment:
    """A shipped environment with some parts changed: `hosts=(...), load_balancing={"https_port": 1}`."""
    environment = shipped(name)
    for part, value in values.items():
        new = getattr(environment, part).model_copy(update=value) if isinstance(value, dict) else value
        environment = environment.model_copy(update={part: new})
    return environment


def loopback_host(name: str, port: int, host_key: str, root_dir: str = "/") -> Host:
    """A host of the inventory on this machine."""
    return Host.model_validate(
        {
            "name": name,
            "address": "127.0.0.1",
            "roles": ["application"],
            "ssh": {"port": port, "host_key": host_key},
            "root_dir": root_dir,
        }
    )
