"""`python -m lab.compose`: builds and boots docker-compose.yaml, deploys on it while a worker is killed, restores it.

Needs a container engine (`make compose-test` brings one). Writes `build/compose.json`, and leaves nothing running.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from lab import paths
from lab.airflow.client import AirflowApiError
from lab.compose.deployment import create_users, deploy_with_a_killed_worker
from lab.compose.project import ComposeError, Project, docker
from lab.compose.rules import check_containers
from lab.compose.systemd import check_services
from lab.compose.upkeep import keep_up
from sebenza_ops.systems.errors import OutsideSystemError

RESULT = paths.CHECKOUT / "build" / "compose.json"
LAB = ("lab", "systemd-host")


class Timed:
    """Prints what happens now, and keeps how long each part took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.seconds: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print one line."""
        print(f"compose: {time.monotonic() - self._began:6.1f} s  {line}", flush=True)

    def part(self, name: str, action: Callable[[], Any]) -> Any:
        """Run a part of the test."""
        self.say(name)
        began = time.monotonic()
        found = action()
        self.seconds[name] = round(time.monotonic() - began, 1)
        return found


def main(arguments: list[str] | None = None) -> int:
    """Run the test; 0 when everything was as it should be, 1 with one line that says what was not."""
    parser = argparse.ArgumentParser(prog="python -m lab.compose", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running, to look at it")
    parser.add_argument("--subnet", default="172.30.79", help="first three octets of the network (default 172.30.79)")
    parser.add_argument("--port", type=int, default=8180, help="of the API server on loopback (default 8180)")
    options = parser.parse_args(arguments)
    project = Project(options.subnet, options.port, os.environ.get("DEBIAN_IMAGE", "debian:bookworm-slim"))
    timed = Timed()
    try:
        facts = _run(project, timed)
    except (ComposeError, AirflowApiError, OutsideSystemError, TimeoutError) as error:
        print(f"compose: FAILED: {error}", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            timed.say("taking everything down")
            project("down", "--volumes", "--timeout", "20", check=False)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"seconds": timed.seconds, **facts}, indent=1) + "\n")
    timed.say(f"passed; figures are in {RESULT.relative_to(paths.CHECKOUT)}")
    return 0


def _run(project: Project, timed: Timed) -> dict[str, Any]:
    say = timed.say
    project.prepare_directories()
    # The secrets of the databases are mounted before there is a lab to connect to.
    timed.part("making secrets", project.make_secrets)
    timed.part("building the images", project.build)
    say(f"built: {_sizes()}")
    timed.part("booting the lab", lambda: _boot(project, LAB, say))
    timed.part("moving services on the systemd host", lambda: check_services(project, say))
    project.make_secrets()
    services = [name for name in project("config", "--services").split() if name not in (*LAB, "prepare")]
    timed.part("booting the installation", lambda: _boot(project, services, say))
    timed.part("looking into the containers", lambda: check_containers(project, services, say))
    password = create_users(project, say)
    deployed = timed.part("deploying", lambda: deploy_with_a_killed_worker(project, password, say))
    kept = timed.part("scaling, backing up and restoring", lambda: keep_up(project, password, services, say))
    return {"images": _sizes(), "containers": len(services) + len(LAB), **deployed, **kept}


def _boot(project: Project, services: Any, say: Callable[[str], None]) -> None:
    project("up", "--detach", "--no-build", *services)
    project.await_healthy(*services, say=say)


def _sizes() -> dict[str, str]:
    rows = docker("images", "--format", "{{.Repository}} {{.Size}}").splitlines()
    return dict(sorted(row.split(" ", 1) for row in rows if row.startswith("sebenza-compose-test")))


if __name__ == "__main__":
    sys.exit(main())
