"""Application hosts: their releases, their PM2 processes of each color, and the commands that change them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import MISSING, parse_sections
from sebenza_ops.systems.host_scripts import include_dir
from sebenza_ops.systems.ssh import Fence, HostSession

LISTEN_TIMEOUT_SECONDS = 10
# PM2's default of 1.6 s would cut requests that a drain waits for (facts: raise it above the drain).
KILL_TIMEOUT_MARGIN_SECONDS = 5


@dataclass(frozen=True)
class ProcessState:
    """One PM2 process: app name ("sebenza-blue"), status ("online", "errored", …), restarts, working directory."""

    name: str
    status: str
    restarts: int
    cwd: str
    pid: int = 0


@dataclass(frozen=True)
class ApplicationHostState:
    """What an application host holds and runs. `processes` is None when PM2's daemon does not run.

    `releases` are the installed ones, the newest first; `good_releases` those that were verified here, the newest
    first, and empty where the host keeps no list of them.
    """

    host: str
    processes: tuple[ProcessState, ...] | None
    releases: tuple[str, ...]
    free_bytes: int
    marker: str | None
    last_good_release: str | None
    good_releases: tuple[str, ...] = ()

    def online(self, process_name: str) -> tuple[ProcessState, ...]:
        """The online PM2 processes of that name (`Application.process_name`)."""
        named = [process for process in self.processes or () if process.name == process_name]
        return tuple(process for process in named if process.status == "online")

    def release_of(self, process_name: str) -> str | None:
        """The release whose directory the online processes run in; None when none is online or they differ."""
        running = {process.cwd.rstrip("/").rsplit("/", 1)[-1] for process in self.online(process_name)}
        return running.pop() if len(running) == 1 else None


def parse_state(host: str, text: str) -> ApplicationHostState:
    """A host's state from the output of include/hosts/app_state.sh. Raises NoDataError when it can't be read."""
    sections = parse_sections(text)
    try:
        listed = sections["processes"]
        processes = None if listed == "!no-daemon" else tuple(_process(item) for item in json.loads(listed))
        free_bytes = int(sections["disk"]) * 1024
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(
            f"its state could not be read ({error}): is Node.js where the inventory says?", host=host
        ) from error
    marker, last_good = sections.get("marker", MISSING), sections.get("last_good", MISSING)
    good = sections.get("good", MISSING)
    return ApplicationHostState(
        host=host,
        processes=processes,
        releases=tuple(sections.get("releases", "").split()),
        free_bytes=free_bytes,
        marker=None if marker == MISSING else marker,
        last_good_release=None if last_good == MISSING else last_good,
        good_releases=() if good == MISSING else tuple(good.split()),
    )


def _process(item: dict[str, object]) -> ProcessState:
    return ProcessState(
        name=str(item["name"]),
        status=str(item["status"]),
        restarts=int(str(item.get("restarts") or 0)),
        cwd=str(item.get("cwd") or ""),
        pid=int(str(item.get("pid") or 0)),
    )


class ApplicationHost:
    """One application host of an environment, over an SSH session."""

    def __init__(self, environment: Environment, session: HostSession) -> None:
        self.environment = environment
        self.session = session
        self._application = environment.application
        self._path = session.host.path

    @property
    def name(self) -> str:
        """The host's name in the inventory."""
        return self.session.host.name

    def release_dir(self, release_id: str) -> str:
        """Where a release lies on this host."""
        return self._path(f"{self._application.releases_dir}/{release_id}")

    def env_file(self, color: Color) -> str:
        """The color's env file on this host."""
        return self._path(f"{self._application.colors_dir}/{color.value}/app.env")

    def state(self) -> ApplicationHostState:
        """What the host holds and runs. Raises NoDataError, HostUnreachableError."""
        application = self._application
        arguments = [
            application.node_bin_dir,
            self._path(application.pm2_home),
            application.pm2_path,
            self._path(application.releases_dir),
            self._path(application.colors_dir),
            self._path(application.marker_dir),
        ]
        result = self.session.run_script("app_state", arguments, timeout_seconds=20, check=False)
        return parse_state(self.name, result.stdout)

    def install(self, fence: Fence, release_id: str, sha256: str, size_bytes: int, source: str) -> str:
        """Fetch, verify and unpack a release. `source` is the artifact's URL and, after it, certificates to trust.

        Returns "installed", or "present" when this very artifact is there already.
        """
        arguments = [
            *self.fenced(fence),
            self._path(self._application.releases_dir),
            release_id,
            sha256,
            str(size_bytes),
        ]
        return self.session.run_script("app_install", arguments, stdin=source, timeout_seconds=300).stdout.strip()

    def configure(self, fence: Fence, color: Color, release_id: str, env_text: str) -> None:
        """Write the color's env file (owner-only) and PM2 file for a release."""
        arguments = [
            *self.fenced(fence),
            self._path(self._application.colors_dir),
            color.value,
            self.render_ecosystem(color, release_id),
            self._path(self._application.log_dir),
            str(len(env_text.encode())),
        ]
        self.session.run_script("app_configure", arguments, stdin=env_text)

    def start(self, fence: Fence, color: Color) -> None:
        """Start the color anew. That this returns says nothing about its health."""
        arguments = [
            *self.fenced(fence),
            self._path(self._application.colors_dir),
            color.value,
            self._application.node_bin_dir,
            self._path(self._application.pm2_home),
            self._application.pm2_path,
            self._application.process_name(color),
        ]
        self.session.run_script("app_start", arguments, timeout_seconds=60)

    def stop(self, fence: Fence, color: Color) -> None:
        """Stop the color's processes."""
        arguments = [
            *self.fenced(fence),
            self._application.node_bin_dir,
            self._path(self._application.pm2_home),
            self._application.pm2_path,
            self._application.process_name(color),
        ]
        self.session.run_script("app_stop", arguments, timeout_seconds=60)

    def prune(self, fence: Fence, release_ids: Sequence[str]) -> tuple[str, ...]:
        """Remove installed releases. Returns those that are gone; one that a process runs from stays."""
        arguments = [
            *self.fenced(fence),
            self._application.node_bin_dir,
            self._path(self._application.pm2_home),
            self._application.pm2_path,
            self._path(self._application.releases_dir),
            *release_ids,
        ]
        return tuple(self.session.run_script("app_prune", arguments, timeout_seconds=120).stdout.split())

    def write_marker(self, fence: Fence, name: str, value: str) -> None:
        """Write a one-line file of the marker directory: `current-color`, `last-good-release`, `good-releases`."""
        path = self._path(f"{self._application.marker_dir}/{name}")
        self.session.run_script("marker_write", [*self.fenced(fence), path, value])

    def read_marker(self, name: str) -> str | None:
        """A one-line file of the marker directory, or None when there is no such file."""
        return self.read_file(self._path(f"{self._application.marker_dir}/{name}"))

    def read_file(self, path: str) -> str | None:
        """A file's text, or None when there is no such file."""
        result = self.session.run_script("file_read", [path], check=False)
        return result.stdout if result.exit_status == 0 else None

    def render_ecosystem(self, color: Color, release_id: str) -> str:
        """PM2's file for one color of one release (include/hosts/ecosystem.config.js.j2)."""
        from jinja2 import Environment as Templates
        from jinja2 import StrictUndefined

        template = (include_dir() / "hosts" / "ecosystem.config.js.j2").read_text()
        policy = self.environment.policies.blue_green
        drain_seconds = policy.drain_timeout_seconds if policy is not None else 30
        # No HTML is made here; the values are names and paths that the inventory has checked.
        rendered: str = (
            Templates(undefined=StrictUndefined, autoescape=False)
            .from_string(template)
            .render(
                app_name=self._application.process_name(color),
                color=color.value,
                environment=self.environment.name,
                release_dir=self.release_dir(release_id),
                env_file=self.env_file(color),
                run_dir=self._path(f"{self._application.colors_dir}/{color.value}/run"),
                log_dir=self._path(self._application.log_dir),
                instances=self._application.processes_per_host,
                listen_timeout_ms=LISTEN_TIMEOUT_SECONDS * 1000,
                kill_timeout_ms=int((drain_seconds + KILL_TIMEOUT_MARGIN_SECONDS) * 1000),
            )
        )
        return rendered

    def fenced(self, fence: Fence) -> list[str]:
        """The first arguments of every changing script on this host."""
        return fence.arguments(self._path(self._application.state_dir))
