"""The service actions on a host whose init really is systemd, over SSH, as procedures use them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import yaml

from lab.compose.project import ComposeError, Project
from sebenza_ops.environments.components import Service, ServiceManager
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import FencedOffError
from sebenza_ops.systems.services import Services, ServiceState, ServiceStateError, services_of
from sebenza_ops.systems.ssh import Fence, open_session

ENVIRONMENT = "staging"


def check_services(project: Project, say: Callable[[str], None]) -> None:
    """Start, stop, reload, restart and fence services on the systemd host. Raises ComposeError for what is not so."""
    environment, host = _place(project)
    connections = yaml.safe_load((project.handover_dir / f"connections/{ENVIRONMENT}.yaml").read_text())
    os.environ[f"AIRFLOW_CONN_{environment.ssh_conn_id.upper()}"] = json.dumps(connections[environment.ssh_conn_id])
    with open_session(host, environment.ssh_conn_id) as session:
        init = session.run(["ps", "-o", "comm=", "-p", "1"], check=False).stdout.strip() or _init(session)
        expect(init == "systemd", f"PID 1 is {init!r}, not systemd")
        services = services_of(session, environment)
        _move(services, say)
        _fence(services, say)
        _superseded(services, say)


def _init(session: Any) -> str:
    return str(session.run(["cat", "/proc/1/comm"]).stdout.strip())


def _place(project: Project) -> tuple[Environment, Host]:
    """The lab's staging environment, and the systemd host as one more host of it."""
    environment = load_inventory(project.handover_dir / "environments").environments[ENVIRONMENT]
    text = project("exec", "-T", "systemd-host", "cat", "/etc/ssh/ssh_host_ed25519_key.pub")
    host = Host.model_validate(
        {
            "name": "systemd-host",
            "address": f"{project.subnet}.101",
            "roles": ["application"],
            "ssh": {"port": 22, "host_key": " ".join(text.split()[:2])},
        }
    )
    return environment.model_copy(update={"service_manager": ServiceManager(), "hosts": (host,)}), host


def _move(services: Services, say: Callable[[str], None]) -> None:
    fence = Fence("systemd-test", 10, "compose-test")
    nginx = services.start(Service.NGINX, fence)
    for _ in range(2):
        expect(services.start(Service.NGINX, fence).pid == nginx.pid, "a second start changed something")
    expect(services.reload(Service.NGINX, fence).pid == nginx.pid, "a reload gave nginx another master")
    expect(services.restart(Service.NGINX, fence).pid not in (0, nginx.pid), "a restart left the old process")
    for _ in range(2):
        expect(services.stop(Service.NGINX, fence).state is ServiceState.STOPPED, "nginx does not stop")
    services.start(Service.NGINX, fence)
    say("systemd: nginx started, reloaded (same master), restarted, stopped; repeating changed nothing")


def _fence(services: Services, say: Callable[[str], None]) -> None:
    fence = Fence("systemd-test", 11, "compose-test")
    services.start(Service.REDIS, fence)
    for _ in range(2):
        expect(services.fence(Service.REDIS, fence).state is ServiceState.FENCED, "redis is not fenced")
    try:
        services.start(Service.REDIS, fence)
        expect(False, "a fenced redis was started")
    except ServiceStateError:
        pass
    expect(services.lift_fence(Service.REDIS, fence).state is ServiceState.STOPPED, "the fence stays")
    expect(services.start(Service.REDIS, fence).state is ServiceState.RUNNING, "redis does not start again")
    say("systemd: redis fenced (masked and stopped), refused to start, started again after the fence was lifted")


def _superseded(services: Services, say: Callable[[str], None]) -> None:
    before = services.start(Service.NGINX, Fence("systemd-test", 20, "later"))
    try:
        services.stop(Service.NGINX, Fence("systemd-test", 19, "earlier"))
        expect(False, "a superseded run stopped nginx")
    except FencedOffError:
        pass
    expect(services.status(Service.NGINX).pid == before.pid, "a refused stop touched nginx")
    say("systemd: a run with a lower fencing token was refused by the host")


def expect(condition: bool, otherwise: str) -> None:
    """Raise ComposeError unless the condition holds."""
    if not condition:
        raise ComposeError(otherwise)
