"""Starting, stopping and killing the lab's hosts and their services through supervisor."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import xmlrpc.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from lab import paths
from lab.addresses import ALL_HOST_NAMES, address
from lab.hosts import SERVICE_PORTS, SERVICES, check_host, check_service, listening
from lab.programs import MARKER_VARIABLE, RETITLED, marker
from lab.waiting import LabError, accepts_connections, until


@dataclass(frozen=True)
class ServiceState:
    """What the service manager of a host says about one service."""

    name: str
    state: str
    """supervisor's word: RUNNING, STARTING, BACKOFF, STOPPED, FATAL, ...; DOWN when the host is down."""
    pid: int
    detail: str

    @property
    def running(self) -> bool:
        """Whether the service runs."""
        return self.state == "RUNNING"


def _pid_file(host: str) -> Path:
    return paths.host_files(host) / "run/supervisord.pid"


def _alive(pid: int) -> bool:
    # A zombie answers kill -0: only the state tells.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def init_pid(host: str) -> int | None:
    """The process id of the host's service manager, or None when the host is down."""
    try:
        pid = int(_pid_file(host).read_text())
    except (FileNotFoundError, ValueError):
        return None
    try:
        command = psutil.Process(pid).cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return None
    # The file may be older than the machine's last start, and the number another program's by now.
    return pid if str(_config_file(host)) in command and _alive(pid) else None


def _config_file(host: str) -> Path:
    return paths.host_root(host) / "etc/supervisor/supervisord.conf"


def is_up(host: str) -> bool:
    """Whether the host's service manager runs."""
    return init_pid(host) is not None


@contextlib.contextmanager
def _manager(host: str) -> Iterator[Any]:
    socket = paths.host_root(host) / "run/supervisor.sock"
    transport = SupervisorTransport(None, None, f"unix://{socket}")
    proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
    try:
        yield proxy.supervisor
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise LabError(f"{host} is down: its service manager does not answer on {socket}") from error
    finally:
        transport.close()


def _answers(host: str) -> bool:
    try:
        with _manager(host) as manager:
            return bool(manager.getState()["statename"] == "RUNNING")
    except LabError:
        return False


def power_on(host: str) -> None:
    """Start the host's service manager unless it runs; services that start by themselves start."""
    if is_up(host):
        return
    log = paths.host_files(host) / "var/log/supervisord.out"
    for stale in ("run/supervisor.sock", "run/supervisord.pid"):
        (paths.host_files(host) / stale).unlink(missing_ok=True)
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        MARKER_VARIABLE: marker(host),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(paths.CHECKOUT / "lab/init.py"), str(_config_file(host))],
            cwd="/",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def ready() -> bool:
        if process.poll() is not None:
            raise LabError(f"{host}: supervisord ended at once: {log.read_text()[-500:].strip()}")
        return _answers(host)

    until(ready, f"{host}: supervisord answers (log: {log})", deadline_seconds=20)


def states(host: str) -> list[ServiceState]:
    """The state of each of the host's services."""
    if not is_up(host):
        return [ServiceState(name, "DOWN", 0, "the host is down") for name in SERVICES[check_host(host)]]
    with _manager(host) as manager:
        found = {each["name"]: each for each in manager.getAllProcessInfo()}
    return [
        ServiceState(name, found[name]["statename"], int(found[name]["pid"]), str(found[name]["description"]))
        if name in found
        else ServiceState(name, "FENCED", 0, "taken out of the running configuration")
        for name in SERVICES[host]
    ]


def state(host: str, service: str) -> ServiceState:
    """The state of one service."""
    check_service(host, service)
    return next(each for each in states(host) if each.name == service)


def start(host: str, service: str, deadline_seconds: float = 30.0) -> None:
    """Start a service unless it runs, and wait until it listens."""
    check_service(host, service)
    with _manager(host) as manager:
        try:
            manager.startProcess(service, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise LabError(
                    f"{host}: {service} can't be started: {fault.faultString}{_tail(host, service)}"
                ) from fault
    await_listening(host, service, deadline_seconds)


def readmit(host: str, service: str) -> None:
    """Let a service be started again that a procedure has fenced: it was taken out of the running configuration."""
    check_service(host, service)
    with _manager(host) as manager, contextlib.suppress(xmlrpc.client.Fault):
        manager.addProcessGroup(service)


def await_listening(host: str, service: str, deadline_seconds: float = 30.0) -> None:
    """Wait until a service runs and accepts connections; `LabError` with its last log lines."""

    def listening() -> bool:
        current = state(host, service)
        if current.state == "FATAL":
            raise LabError(f"{host}: {service} does not stay up{_tail(host, service)}")
        if current.pid == 0:
            return False
        return all(accepts_connections(address(host), port) for port in SERVICE_PORTS[service])

    ports = ", ".join(str(port) for port in SERVICE_PORTS[service]) or "none"
    try:
        until(listening, f"{host}: {service} runs and listens (ports: {ports})", deadline_seconds)
    except LabError as error:
        raise LabError(f"{error}{_tail(host, service)}") from None


def _tail(host: str, service: str, lines: int = 6) -> str:
    log = paths.host_files(host) / f"var/log/{service}.log"
    if not log.exists():
        return f"\n  (no log yet at {log})"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        last = file.read().decode(errors="replace").splitlines()[-lines:]
    return "".join(f"\n  {service}.log: {line}" for line in last)


def stop(host: str, service: str, deadline_seconds: float = 60.0) -> None:
    """Stop a service the way its service manager does, and wait until it is gone."""
    check_service(host, service)
    with _manager(host) as manager:
        try:
            manager.stopProcess(service, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.NOT_RUNNING:
                raise LabError(f"{host}: {service} can't be stopped: {fault.faultString}") from fault
    _await_stopped(host, service, deadline_seconds)


def _await_stopped(host: str, service: str, deadline_seconds: float) -> None:
    until(lambda: state(host, service).pid == 0, f"{host}: {service} has stopped", deadline_seconds)


def restart(host: str, service: str) -> None:
    """Stop and start a service."""
    stop(host, service)
    start(host, service)


def signal_service(host: str, service: str, number: signal.Signals) -> None:
    """Send a signal to the service's main process."""
    os.kill(_main_pid(host, service), number)


def _main_pid(host: str, service: str) -> int:
    current = state(host, service)
    if current.pid == 0:
        raise LabError(f"{host}: {service} does not run (it is {current.state})")
    return current.pid


def kill_service(host: str, service: str, *, comes_back: bool = False) -> list[int]:
    """SIGKILL a service's process group and all its descendants; the killed process ids.

    It stays dead until it is started, unless `comes_back`: then the service manager
    starts it again at once, as systemd does with Restart=always.
    """
    pid = _main_pid(host, service)
    victims = _tree(pid)
    # Frozen first, so that no descendant forks away, and so that the manager's own
    # stop signal, which tells it not to start the service again, is never acted upon.
    for victim in victims:
        _send(victim, signal.SIGSTOP)
    victims = _tree(pid)
    if not comes_back:
        with _manager(host) as manager:
            manager.stopProcess(service, False)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    for victim in victims:
        _send(victim, signal.SIGKILL)
    until(lambda: not any(_alive(victim) for victim in victims), f"{host}: {service} is dead", 10)
    # A manager that has not noticed yet takes a start that follows for one of a running service.
    until(lambda: state(host, service).pid != pid, f"{host}: the service manager has seen {service} die", 10)
    return victims


def kill_host(host: str) -> list[int]:
    """SIGKILL everything that runs on the host, its service manager too; the killed process ids."""
    pid = init_pid(host)
    if pid is None:
        return []
    _send(pid, signal.SIGSTOP)
    victims = _tree(pid)
    for victim in victims:
        _send(victim, signal.SIGSTOP)
    victims = _tree(pid)
    # Children first: were the host's init dead before them, they would escape to the machine's.
    for victim in [*reversed(victims)]:
        _send(victim, signal.SIGKILL)
    until(lambda: not any(_alive(victim) for victim in victims), f"{host}: everything is dead", 10)
    return victims


def power_off(host: str, deadline_seconds: float = 45.0) -> None:
    """Stop every service and the host's service manager; what is left after the deadline is killed."""
    pid = init_pid(host)
    if pid is None:
        return
    with contextlib.suppress(LabError, xmlrpc.client.Fault), _manager(host) as manager:
        # All at once: at the manager's own shutdown they would stop one a second.
        manager.stopAllProcesses(False)
    with contextlib.suppress(LabError):
        until(lambda: len(_tree(pid)) <= 1, f"{host} shuts down", deadline_seconds)
    kill_host(host)
    for stale in ("run/supervisor.sock", "run/supervisord.pid"):
        (paths.host_files(host) / stale).unlink(missing_ok=True)


def _tree(pid: int) -> list[int]:
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def leftovers() -> list[psutil.Process]:
    """Processes of this lab's hosts, wherever they hang: found by marker, work directory or address.

    Your own shell in `.lab`, whatever merely mentions the lab, and another lab are not among them.
    """
    markers = {marker(host) for host in ALL_HOST_NAMES}
    # Addresses are ours while the short paths lead to our hosts; then no other lab can be up.
    places = {(address(host), port) for host, _, port in listening(ALL_HOST_NAMES) if _linked_to_us(host)}
    return [process for process in psutil.process_iter() if _belongs(process, markers, places)]


def _linked_to_us(host: str) -> bool:
    link = paths.host_root(host)
    return link.is_symlink() and link.readlink() == paths.host_files(host)


def _belongs(process: psutil.Process, markers: set[str], places: set[tuple[str, int]]) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if process.environ().get(MARKER_VARIABLE) in markers:
            return True
        if process.name() not in RETITLED:
            return False
        if Path(process.cwd()).is_relative_to(paths.LAB_DIR / "hosts"):
            return True
        connections = process.net_connections("tcp")
        return any(tuple(connection.laddr) in places for connection in connections)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def end_leftovers() -> int:
    """Kill what an unclean end of this lab left behind; how many processes that were."""
    found = leftovers()
    for process in found:
        _send(process.pid, signal.SIGKILL)
    until(lambda: not leftovers(), "leftover processes are gone", 10)
    return len(found)
