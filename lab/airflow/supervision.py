"""Airflow's components under one supervisor.

supervisord starts each component, starts it again within a second or two when it dies, and keeps its output. It
is made the reaper of all that they leave behind (a killed scheduler's workers, say), so that its
descendants are exactly the processes of this Airflow and ``stop`` can leave none.
"""

from __future__ import annotations

import configparser
import contextlib
import ctypes
import io
import os
import shlex
import subprocess
import sys
import xmlrpc.client
from typing import TYPE_CHECKING, Any

import psutil
from supervisor.xmlrpc import SupervisorTransport

from lab.airflow.components import Component, components
from lab.airflow.settings import AirflowSettings, write_private

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: The local Airflow's; one with Celery has others (`lab.airflow.components`).
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer")
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
STOP_SECONDS = 15
LEFTOVER_SECONDS = 3


class ComponentError(RuntimeError):
    """A component can't be started or asked; the message says which and where to look."""


class Supervision:
    """Starts, asks and stops the components of one Airflow."""

    def __init__(self, settings: AirflowSettings) -> None:
        self._settings = settings
        self._directory = settings.supervisor_directory
        self._pid_file = settings.home / "supervisord.pid"

    @property
    def socket(self) -> Path:
        """The supervisor's control socket."""
        return self._directory / "supervisor.sock"

    def process(self) -> psutil.Process | None:
        """The running supervisor, or None."""
        try:
            process = psutil.Process(int(self._pid_file.read_text()))
            if process.status() == psutil.STATUS_ZOMBIE or str(self._configuration_file) not in process.cmdline():
                return None
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process

    @property
    def _configuration_file(self) -> Path:
        return self._settings.home / "supervisord.conf"

    def start(self) -> None:
        """Start supervisord and with it the components.

        Raises:
            ComponentError: it ended at once.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        (self._settings.logs_directory / "components").mkdir(parents=True, exist_ok=True)
        write_private(self._configuration_file, self._configuration())
        prctl = ctypes.CDLL(None, use_errno=True).prctl

        def adopt_orphans() -> None:
            # Survives exec: whatever loses its parent below supervisord becomes its child.
            prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

        self._run_detached(adopt_orphans)

    def _run_detached(self, before_exec: Callable[[], None]) -> None:
        output = self._settings.logs_directory / "components" / "supervisord.out"
        with output.open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._configuration_file)],
                cwd=self._settings.home,
                env=self._settings.process_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=before_exec,
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = child.wait(timeout=0.7)
            raise ComponentError(
                f"the supervisor of Airflow ended at once with code {code}: see {output}; "
                f"if it says that another one runs, use `python -m lab.airflow down` first"
            )

    def states(self) -> dict[str, dict[str, Any]]:
        """What the supervisor knows of each component (``statename``, ``pid``, ``start`` …); empty when it is down."""
        if self.process() is None:
            return {}
        try:
            rows: Any = self._proxy().supervisor.getAllProcessInfo()
        except (OSError, xmlrpc.client.Error):
            return {}
        return {row["name"]: row for row in rows}

    def pid(self, component: str) -> int:
        """Process id of a running component.

        Raises:
            ComponentError: it isn't running.
        """
        state = self.states().get(component)
        if state is None or not state["pid"]:
            raise ComponentError(f"Airflow's {component} is not running; `python -m lab.airflow status` tells more")
        return int(state["pid"])

    def descendants(self) -> list[psutil.Process]:
        """Every process of this Airflow except the supervisor itself."""
        root = self.process()
        return [] if root is None else root.children(recursive=True)

    def stop(self) -> int:
        """Stop everything; returns how many processes had to be killed because they ignored the request."""
        root = self.process()
        family = [] if root is None else [*root.children(recursive=True), root]
        if root is not None:
            root.terminate()
            psutil.wait_procs([root], timeout=STOP_SECONDS)
        family = _merge(family, self._strays())
        # Workers end when they notice that their scheduler is gone.
        _, alive = psutil.wait_procs(family, timeout=LEFTOVER_SECONDS if root is not None else 0.2)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=5)
        self._pid_file.unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        return len(alive)

    def kill(self) -> int:
        """SIGKILL the supervisor and everything below it at once, as a machine that is gone; how many there were."""
        root = self.process()
        family = [] if root is None else [root, *root.children(recursive=True)]
        for process in [*family, *self._strays()]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
        return len(family)

    def _strays(self) -> list[psutil.Process]:
        """Processes of this Airflow that outlived a killed supervisor: they work in its home directory."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.cwd() == str(self._settings.home):
                    found.append(process)
        return found

    def _proxy(self) -> xmlrpc.client.ServerProxy:
        transport = SupervisorTransport(None, None, f"unix://{self.socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def _configuration(self) -> str:
        parser = configparser.RawConfigParser()
        logs = self._settings.logs_directory / "components"
        parser.read_dict(
            {
                "unix_http_server": {"file": str(self.socket), "chmod": "0600"},
                "supervisord": {
                    "logfile": str(logs / "supervisord.log"),
                    "pidfile": str(self._pid_file),
                    "directory": str(self._settings.home),
                    "identifier": "sebenza-airflow",
                    "silent": "true",
                },
                "rpcinterface:supervisor": {
                    "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
                },
                **{f"program:{each.name}": self._program(each, logs) for each in components(self._settings)},
            }
        )
        text = io.StringIO()
        parser.write(text)
        return text.getvalue()

    def _program(self, component: Component, logs: Path) -> dict[str, str]:
        return {
            "command": shlex.join([sys.executable, "-m", "airflow", *component.arguments]),
            "environment": ",".join(f"{name}={_quoted(value)}" for name, value in component.environment.items()),
            "directory": str(self._settings.home),
            "autostart": "true",
            "autorestart": "true",
            "startsecs": "1",
            "startretries": "1000",
            "stopsignal": "TERM",
            "stopwaitsecs": str(STOP_SECONDS - 5),
            "stopasgroup": "true",
            "killasgroup": "true",
            "stdout_logfile": str(logs / f"{component.name}.log"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": "1",
            "redirect_stderr": "true",
        }


def _quoted(value: str) -> str:
    """A value of supervisor's `environment`, which it reads as a shell would, after its own % expansion."""
    return shlex.quote(value).replace("%", "%%")


def _merge(first: list[psutil.Process], second: list[psutil.Process]) -> list[psutil.Process]:
    return list({process.pid: process for process in [*first, *second]}.values())
