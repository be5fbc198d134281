"""The sample application for tests: built releases, a private PostgreSQL and Redis, and workers that run on them."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from lab import waiting
from lab.repository import create_repository
from lab.waiting import scaled
from tests.postgres_server import PostgresServer

NODE = shutil.which("node") or "node"
START_SECONDS = 15.0


def free_port() -> int:
    """Return a TCP port of the loopback address that nothing uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Releases:
    """The releases of the sample application, each built once, all with the same installed modules."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.repository = directory / "sebenza-logistics.git"
        self.shas = create_repository(self.repository)

    @functools.cached_property
    def modules(self) -> Path:
        """What `npm ci` installs from the first release's lock."""
        tree = self._check_out("v1.0.0", "modules")
        command = ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"]
        subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=scaled(110))
        return tree / "node_modules"

    @functools.cache  # noqa: B019  (one object for the whole session)
    def build(self, tag: str) -> Path:
        """Return the directory of a built release."""
        tree = self._check_out(tag, tag)
        (tree / "node_modules").symlink_to(self.modules)
        environment = os.environ | {"RELEASE_VERSION": tag, "RELEASE_SHA": self.shas[tag]}
        subprocess.run([NODE, "scripts/build.js"], cwd=tree, env=environment, check=True, capture_output=True)
        return tree

    def release_id(self, tag: str) -> str:
        return f"{tag}-{self.shas[tag][:12]}"

    def _check_out(self, tag: str, name: str) -> Path:
        tree = self.directory / name
        tree.mkdir()
        archive = subprocess.run(
            ["git", "--git-dir", str(self.repository), "archive", tag], check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
        return tree


class ApplicationDatabase(PostgresServer):
    """A private PostgreSQL that can also be taken away and brought back."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def create_numbered_database(self) -> str:
        """Create a database `sebenza_<number>`; an application on it uses the Redis database of that number."""
        name = f"sebenza_{next(self._numbers)}"
        self.create_database(name)
        return name

    def halt(self) -> None:
        self._run("pg_ctl", "stop", "--wait", "--mode", "immediate", "--pgdata", str(self._data))

    def resume(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.directory}' -c fsync=off"
        log = str(self.directory / "server.log")
        self._run("pg_ctl", "start", "--wait", "--pgdata", str(self._data), "--log", log, "--options", options)

    def application_url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.directory}&user=postgres"

    def connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.directory), dbname=database, user="postgres", autocommit=True)


class RedisServer:
    """A private Redis on a free port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, number: int) -> str:
        return f"redis://127.0.0.1:{self.port}/{number}"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--databases", "200"]
        self._process = subprocess.Popen(command, cwd=self.directory, stdout=subprocess.DEVNULL)
        waiting.until(lambda: waiting.accepts_connections("127.0.0.1", self.port), "Redis answers")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(scaled(10))
            self._process = None


@dataclass
class Color:
    """The files of one color on a host, and its worker when it was started without PM2."""

    directory: Path
    release: Path
    variables: dict[str, str]
    port: int
    database: str
    process: subprocess.Popen[bytes] | None = None
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"Authorization": "Bearer tester"}, timeout=15
        )
        self.write_env_file()

    @property
    def env_file(self) -> Path:
        return self.directory / "app.env"

    @property
    def output(self) -> Path:
        return self.directory / "output.log"

    def write_env_file(self, **changes: str) -> None:
        lines = [f"{name}={value}" for name, value in (self.variables | changes).items()]
        self.env_file.write_text("\n".join(lines) + "\n")

    def start(self, *, until_healthy: bool = True) -> None:
        environment = {"PATH": os.environ["PATH"], "SEBENZA_ENV_FILE": str(self.env_file)}
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [NODE, "dist/server.js"], cwd=self.release, env=environment, stdout=output, stderr=output
            )
        if until_healthy:
            waiting.until(self.is_healthy, f"a healthy worker ({self.output})", START_SECONDS)

    def is_healthy(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise AssertionError(f"the worker ended: {self.output.read_text()}")
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(scaled(20))

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a script of the release on this color's env file."""
        command = [NODE, f"bin/{script}.js", "--settings", str(self.env_file), *arguments]
        return subprocess.run(
            command, cwd=self.release, capture_output=True, text=True, timeout=scaled(60), check=False
        )


class Estate:
    """Makes colors of any release on the session's servers, and ends them."""

    def __init__(self, releases: Releases, database: ApplicationDatabase, cache: RedisServer, directory: Path) -> None:
        self.releases = releases
        self.database = database
        self.cache = cache
        self.directory = directory
        self._colors: list[Color] = []

    def color(self, tag: str, database: str, name: str = "blue", **changes: str) -> Color:
        port = free_port()
        variables = {
            "NODE_ENV": "production",
            "APP_PORT": str(port),
            "DATABASE_URL": self.database.application_url(database),
            "REDIS_URL": self.cache.url(int(database.rpartition("_")[2])),
            "METRICS_ENABLED": "true",
            "SEBENZA_COLOR": name,
        } | changes
        directory = self.directory / f"{name}-{len(self._colors)}"
        color = Color(directory, self.releases.build(tag), variables, port, database)
        self._colors.append(color)
        return color

    def migrated(self, tag: str, name: str = "blue", **changes: str) -> Color:
        """A color with an own, migrated and seeded database."""
        color = self.color(tag, self.database.create_numbered_database(), name, **changes)
        for script, arguments in (("migrate", ["up"]), ("seed", [])):
            finished = color.run(script, *arguments)
            assert finished.returncode == 0, finished.stderr
        return color

    def end(self) -> None:
        for color in self._colors:
            color.client.close()
            if color.process is not None and color.process.poll() is None:
                color.process.kill()
                color.process.wait()


@pytest.fixture(scope="session")
def app_releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    return Releases(tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def app_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApplicationDatabase, RedisServer]]:
    database, cache = ApplicationDatabase(), RedisServer(tmp_path_factory.mktemp("redis"))
    database.start()
    try:
        cache.start()
        yield database, cache
    finally:
        cache.stop()
        database.stop()


@pytest.fixture
def app_estate(
    app_releases: Releases, app_servers: tuple[ApplicationDatabase, RedisServer], tmp_path: Path
) -> Iterator[Estate]:
    estate = Estate(app_releases, *app_servers, tmp_path)
    try:
        yield estate
    finally:
        estate.end()
