"""One compose project: its files, its settings, and the commands that move it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any, Final

import yaml

from lab import paths
from lab.airflow.settings import write_private
from lab.waiting import Patience

NAME: Final = "sebenza-compose-test"
DIRECTORY: Final = paths.CHECKOUT / "build" / "compose"
# Far above what an idle machine takes: a busy one is no failure.
HEALTHY_SECONDS: Final = 900.0
POLL_SECONDS: Final = 1.0


class ComposeError(RuntimeError):
    """A command of the engine failed, or something is not as it should be; the message says what."""


class Project:
    """The installation under test, with directories of its own beside the checkout's.

    Args:
        subnet: First three octets of the network that Airflow and the lab share.
        port: Of the API server, on loopback.
        image: The Debian that everything is built from.
    """

    def __init__(self, subnet: str, port: int, image: str) -> None:
        self.subnet, self.port = subnet, port
        self.secrets_dir = DIRECTORY / "secrets"
        self.handover_dir = DIRECTORY / "handover"
        self.settings = {
            "DEBIAN_IMAGE": image,
            "SEBENZA_IMAGE": NAME,
            "SEBENZA_LAB_SUBNET": subnet,
            "SEBENZA_PUBLISH": f"127.0.0.1:{port}",
            "SEBENZA_BASE_URL": f"http://127.0.0.1:{port}",
            "SEBENZA_SECRETS_DIR": str(self.secrets_dir),
            "SEBENZA_TRUST_DIR": str(self.handover_dir / "trust"),
            "SEBENZA_ENVIRONMENTS_DIR": str(self.handover_dir / "environments"),
            "SEBENZA_HANDOVER_DIR": str(self.handover_dir),
        }
        self._compose = compose_command()

    def __call__(self, *arguments: str, check: bool = True, capture: bool = True) -> str:
        """Run a compose command; returns its output."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=paths.CHECKOUT,
            env=self.environment,
            capture_output=capture,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout or "see above").strip()[-1500:]
            raise ComposeError(f"docker-compose {' '.join(arguments)} failed: {said}")
        return done.stdout or ""

    @property
    def environment(self) -> dict[str, str]:
        """What a compose command needs in its environment."""
        return {**os.environ, **self.settings}

    def command(self, *arguments: str) -> list[str]:
        """A compose command, to be run in the checkout."""
        return [*self._compose, "--project-name", NAME, "--profile", "lab", *arguments]

    def build(self) -> None:
        """Build every image: what compose would do, by the engine itself, which finds all of its cache again."""
        services = yaml.safe_load((paths.CHECKOUT / "docker-compose.yaml").read_text())["services"]
        targets = {service["build"]["target"] for service in services.values() if "build" in service}
        for target in sorted(targets):
            image = NAME if target == "airflow" else f"{NAME}-{target}"
            base = f"DEBIAN_IMAGE={self.settings['DEBIAN_IMAGE']}"
            docker("build", "--quiet", "--build-arg", base, "--target", target, "--tag", f"{image}:latest", ".")

    def prepare_directories(self) -> None:
        """Empty directories for secrets and what the lab hands over."""
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        for directory in (self.secrets_dir, self.handover_dir / "trust", self.handover_dir / "environments"):
            directory.mkdir(parents=True)

    def make_secrets(self) -> None:
        """What an operator does: the script makes the secrets, and the connections of the hosts are added to them."""
        done = subprocess.run(
            ["scripts/installation-secrets.sh"],
            cwd=paths.CHECKOUT,
            # The lab's environments are the shipped ones, which are there before the lab is.
            env={**self.environment, "SEBENZA_ENVIRONMENTS_DIR": "include/environments"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ComposeError(f"scripts/installation-secrets.sh failed: {done.stderr.strip()}")
        for file in sorted((self.handover_dir / "connections").glob("*.yaml")):
            place = self.secrets_dir / "connections" / file.name
            merged = yaml.safe_load(place.read_text()) | (yaml.safe_load(file.read_text()) or {})
            write_private(place, yaml.safe_dump(merged, sort_keys=False))
            place.chmod(0o644)

    def container(self, service: str) -> str:
        """The id of a service's container, running or not."""
        found = self("ps", "--quiet", service).split()
        if not found:
            raise ComposeError(f"{service} has no container")
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container."""
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.container(service)))
        return found[0]

    def await_healthy(self, *services: str, say: Callable[[str], None]) -> None:
        """Wait until the health checks of services pass. Raises ComposeError with the log of one that does not."""
        waiting = set(services)
        patience = Patience(
            "the health checks pass", HEALTHY_SECONDS, progress=lambda: f"not yet {', '.join(sorted(waiting))}"
        )
        while waiting:
            for service in sorted(waiting):
                state = self.inspect(service)["State"]
                if state.get("Health", {}).get("Status") == "healthy":
                    waiting.discard(service)
                elif state["Status"] == "exited" or patience.is_over():
                    checks = state.get("Health", {}).get("Log") or [{}]
                    raise ComposeError(
                        f"{service} is {state['Status']} and not healthy: {checks[-1].get('Output', '')[-300:]}\n"
                        + self("logs", "--tail", "25", "--no-color", service, check=False)
                    )
            if waiting:
                time.sleep(POLL_SECONDS)
        say(f"healthy: {', '.join(services)}")


def compose_command() -> list[str]:
    """`docker compose` where there is one, otherwise Debian's `docker-compose`. Raises ComposeError for neither."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise ComposeError("neither `docker compose` nor `docker-compose` is there: make compose-test installs one")


def docker(*arguments: str) -> str:
    """Run a command of the engine; returns its output. Raises ComposeError."""
    # The plain builder: BuildKit's needs a further program where Debian's engine is used.
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    done = subprocess.run(
        ["docker", *arguments], cwd=paths.CHECKOUT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ComposeError(f"docker {' '.join(arguments)} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout
