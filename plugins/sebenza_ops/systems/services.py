"""Services of a host: started, stopped, reloaded and fenced in one way, by systemd or by the lab's supervisor.

Every change carries the run's fencing token, which the host itself checks (include/hosts/service_move.sh), is harmless
when repeated, and returns only when the service manager says that the service is where it should be.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sebenza_ops.environments.components import Service
from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import Fence, HostSession

STATUS_TIMEOUT_SECONDS: Final = 15.0
#: A database that checkpoints takes long to stop;
#: systemd gives it 90 s (systemd-system.conf(5), DefaultTimeoutStopSec).
MOVE_TIMEOUT_SECONDS: Final = 120.0
_POLL_SECONDS: Final = 0.3

#: What makes a service read its configuration again where the manager has no reload of its own (supervisor).
#: haproxy(1): USR2 to the master; nginx(8) and PostgreSQL (runtime configuration, Setting Parameters): HUP.
RELOAD_SIGNALS: Final[Mapping[Service, str]] = {
    Service.HAPROXY: "USR2",
    Service.NGINX: "HUP",
    Service.POSTGRESQL: "HUP",
}


class ServiceState(StrEnum):
    """What a service manager says of a service."""

    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    """It has ended by itself, or does not stay up."""
    CHANGING = "changing"
    """It is starting or stopping just now."""
    FENCED = "fenced"
    """It is stopped, and can't be started by anybody until the fence is lifted."""


@dataclass(frozen=True)
class ServiceStatus:
    """A service's state; `pid` is 0 when it has no main process."""

    unit: str
    state: ServiceState
    pid: int
    detail: str


class ServiceStateError(OutsideSystemError):
    """A service is not where it was moved to; the message says where it is."""


class Services(ABC):
    """The services of one host.

    Args:
        session: A session of the host.
        environment: Its environment, which names the units.

    Every method may raise HostUnreachableError and RemoteCommandError; those that change something also
    FencedOffError, when a later change holds the host, and ServiceStateError.
    """

    def __init__(self, session: HostSession, environment: Environment) -> None:
        self._session = session
        self._environment = environment

    @abstractmethod
    def status(self, service: Service) -> ServiceStatus:
        """What the service manager says. Raises NoDataError when it says nothing of such a service."""

    def start(self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS) -> ServiceStatus:
        """Start it unless it runs. A service under a fence stays down: ServiceStateError."""
        if self.status(service).state is ServiceState.FENCED:
            raise ServiceStateError(
                f"{self._unit(service)} is fenced, it was not started: lift the fence first, when it is sure that "
                "nothing else does its work",
                host=self._session.host.name,
            )
        return self._move(service, fence, self._start_command(service), ServiceState.RUNNING, timeout_seconds)

    def stop(self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS) -> ServiceStatus:
        """Stop it unless it is stopped. It may be started again, at the latest by the host's next boot."""
        return self._move(service, fence, self._stop_command(service), ServiceState.STOPPED, timeout_seconds)

    def restart(self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS) -> ServiceStatus:
        """Stop and start it."""
        return self._move(service, fence, self._restart_command(service), ServiceState.RUNNING, timeout_seconds)

    def reload(self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS) -> ServiceStatus:
        """Have it read its configuration again, without an interruption. Raises ServiceStateError when it can't."""
        return self._move(service, fence, self._reload_command(service), ServiceState.RUNNING, timeout_seconds)

    def fence(self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS) -> ServiceStatus:
        """Stop it, and keep it from being started by anybody: before something else takes over its work."""
        if self.status(service).state is not ServiceState.FENCED:
            for command in self._fence_commands(service):
                self._run(fence, command, timeout_seconds)
        return self._await(service, ServiceState.FENCED, timeout_seconds)

    def lift_fence(
        self, service: Service, fence: Fence, timeout_seconds: float = MOVE_TIMEOUT_SECONDS
    ) -> ServiceStatus:
        """Let it be started again; it stays stopped."""
        if self.status(service).state is ServiceState.FENCED:
            self._run(fence, self._lift_command(service), timeout_seconds)
        return self.status(service)

    def _move(
        self, service: Service, fence: Fence, command: list[str], wanted: ServiceState, timeout_seconds: float
    ) -> ServiceStatus:
        self._run(fence, command, timeout_seconds)
        return self._await(service, wanted, timeout_seconds)

    def _run(self, fence: Fence, command: list[str], timeout_seconds: float) -> None:
        state_dir = self._session.host.path(self._environment.application.state_dir)
        arguments = [*fence.arguments(state_dir), *command]
        self._session.run_script("service_move", arguments, timeout_seconds=timeout_seconds)

    def _await(self, service: Service, wanted: ServiceState, timeout_seconds: float) -> ServiceStatus:
        give_up_at = time.monotonic() + timeout_seconds
        while True:
            status = self.status(service)
            if status.state is wanted or (wanted is ServiceState.STOPPED and status.state is ServiceState.FENCED):
                return status
            if status.state is not ServiceState.CHANGING or time.monotonic() > give_up_at:
                raise ServiceStateError(
                    f"{status.unit} is {status.state} instead of {wanted} ({status.detail}): see its log on the host",
                    host=self._session.host.name,
                )
            time.sleep(_POLL_SECONDS)

    def _unit(self, service: Service) -> str:
        return self._environment.service_unit(service, self._session.host)

    def _control(self, *arguments: str) -> list[str]:
        return [*self._environment.service_manager.control_command, *arguments]

    def _start_command(self, service: Service) -> list[str]:
        return self._control("start", self._unit(service))

    def _stop_command(self, service: Service) -> list[str]:
        return self._control("stop", self._unit(service))

    def _restart_command(self, service: Service) -> list[str]:
        return self._control("restart", self._unit(service))

    @abstractmethod
    def _reload_command(self, service: Service) -> list[str]: ...

    @abstractmethod
    def _fence_commands(self, service: Service) -> list[list[str]]: ...

    @abstractmethod
    def _lift_command(self, service: Service) -> list[str]: ...


class SystemdServices(Services):
    """Services under systemd: what users run. A fence is a mask, which outlives a boot (systemctl(1), mask)."""

    def status(self, service: Service) -> ServiceStatus:
        """What systemd says of the unit."""
        unit = self._unit(service)
        properties = "--property=LoadState,ActiveState,SubState,MainPID"
        said = self._session.run(["systemctl", "show", properties, unit], timeout_seconds=STATUS_TIMEOUT_SECONDS)
        return parse_systemd(self._session.host.name, unit, said.stdout)

    def _reload_command(self, service: Service) -> list[str]:
        return self._control("reload", self._unit(service))

    def _fence_commands(self, service: Service) -> list[list[str]]:
        return [self._control("mask", "--now", self._unit(service))]

    def _lift_command(self, service: Service) -> list[str]:
        return self._control("unmask", self._unit(service))


class SupervisorServices(Services):
    """Services under supervisor: the lab's. A fence takes the program out of its running configuration."""

    def status(self, service: Service) -> ServiceStatus:
        """What supervisor says of the program."""
        unit = self._unit(service)
        command = self._control("status", unit)
        # 0 runs, 3 does not, 4 no such program (supervisorctl, do_status).
        said = self._session.run(command, timeout_seconds=STATUS_TIMEOUT_SECONDS, check=False)
        return parse_supervisor(self._session.host.name, unit, said.stdout or said.stderr)

    def _start_command(self, service: Service) -> list[str]:
        # supervisorctl calls a start of what runs, and a stop of what does not, an error.
        if self.status(service).state is ServiceState.RUNNING:
            return ["true"]
        return super()._start_command(service)

    def _stop_command(self, service: Service) -> list[str]:
        if self.status(service).state in {ServiceState.STOPPED, ServiceState.FENCED}:
            return ["true"]
        return super()._stop_command(service)

    def _reload_command(self, service: Service) -> list[str]:
        signal = RELOAD_SIGNALS.get(service)
        if signal is None:
            raise ServiceStateError(
                f"{self._unit(service)} can't read its configuration while it runs: restart it",
                host=self._session.host.name,
            )
        return self._control("signal", signal, self._unit(service))

    def _fence_commands(self, service: Service) -> list[list[str]]:
        return [self._stop_command(service), self._control("remove", self._unit(service))]

    def _lift_command(self, service: Service) -> list[str]:
        return self._control("add", self._unit(service))


def services_of(session: HostSession, environment: Environment) -> Services:
    """The services of a session's host, by its environment's service manager."""
    kinds: dict[str, type[Services]] = {"systemd": SystemdServices, "supervisor": SupervisorServices}
    return kinds[environment.service_manager.kind](session, environment)


def parse_systemd(host: str, unit: str, text: str) -> ServiceStatus:
    """The answer of `systemctl show`. Raises NoDataError for a unit that systemd does not know."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    active, load = found.get("ActiveState", ""), found.get("LoadState", "")
    states = {
        "active": ServiceState.RUNNING,
        "reloading": ServiceState.RUNNING,
        "inactive": ServiceState.STOPPED,
        "failed": ServiceState.FAILED,
        "activating": ServiceState.CHANGING,
        "deactivating": ServiceState.CHANGING,
    }
    if load == "not-found" or active not in states:
        raise NoDataError(
            f"systemd does not know {unit} ({load or 'no answer'}): service_manager.units names it otherwise", host=host
        )
    state = states[active]
    if load == "masked" and state in {ServiceState.STOPPED, ServiceState.FAILED}:
        state = ServiceState.FENCED
    pid = found.get("MainPID", "0")
    return ServiceStatus(unit, state, int(pid) if pid.isdigit() else 0, f"{active}, {found.get('SubState', '')}")


def parse_supervisor(host: str, unit: str, text: str) -> ServiceStatus:
    """The answer of `supervisorctl status`. Raises NoDataError for what is no answer."""
    line = text.strip()
    if "no such process" in line or "no such group" in line:
        # The inventory names it and the manager does not have it: that is how a fence looks, and a wrong name.
        return ServiceStatus(unit, ServiceState.FENCED, 0, line)
    words = line.split()
    states = {
        "RUNNING": ServiceState.RUNNING,
        "STOPPED": ServiceState.STOPPED,
        "EXITED": ServiceState.FAILED,
        "FATAL": ServiceState.FAILED,
        "STARTING": ServiceState.CHANGING,
        "STOPPING": ServiceState.CHANGING,
        "BACKOFF": ServiceState.CHANGING,
    }
    if words[:1] != [unit] or len(words) < 2 or words[1] not in states:
        raise NoDataError(f"supervisor gives no state of {unit}: {line[:200]!r}", host=host)
    pid = words[words.index("pid") + 1].rstrip(",") if "pid" in words else "0"
    return ServiceStatus(unit, states[words[1]], int(pid) if pid.isdigit() else 0, " ".join(words[1:]))
