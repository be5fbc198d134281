"""A small production environment and states of its systems, for the rules that compare them."""

from datetime import UTC, datetime
from typing import Any

from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.systems.application_hosts import ApplicationHostState, ProcessState
from sebenza_ops.systems.haproxy import BackendState, LoadBalancerState, ServerState

OLD, NEW = "v1.0.0-aaaaaaaaaaaa", "v1.1.0-bbbbbbbbbbbb"


def production() -> Environment:
    """The shipped example of production: two load balancers, two application hosts and a spare."""
    return load_inventory().environment("production")


def balancer(name: str, runtime: str | None = "bk_blue", **changes: Any) -> LoadBalancerState:
    """A load balancer that sends to `runtime`, with files that agree unless told otherwise."""
    color = {"bk_blue": "blue", "bk_green": "green"}.get(runtime or "", "blue")
    values: dict[str, Any] = {
        "host": name,
        "at": datetime(2026, 11, 23, tzinfo=UTC),
        "runtime_backend": runtime,
        "file_backend": runtime,
        "marker": color,
        "backends": {backend: backend_state(backend) for backend in ("bk_blue", "bk_green")},
        "uptime_seconds": 1000,
        "process_id": 1,
    }
    return LoadBalancerState(**(values | changes))


def backend_state(name: str, requests: int = 0, errors: int = 0, up: int = 2) -> BackendState:
    servers = tuple(ServerState(f"app{n + 1}", "UP" if n < up else "DOWN", 0) for n in range(2))
    return BackendState(name, requests, errors, 0, 0, 0, servers)


def host(name: str, environment: Environment, **releases: str | None) -> ApplicationHostState:
    """An application host whose colors run these releases (`blue=OLD`); a color left out is stopped."""
    processes = [
        ProcessState(
            environment.application.process_name(Color(color)), "online", 0, f"/srv/sebenza/releases/{release}", 100
        )
        for color, release in releases.items()
        if release
    ]
    return ApplicationHostState(name, tuple(processes), (OLD,), 10**10, "blue", OLD)
