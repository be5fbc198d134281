"""The sample application's metrics under PM2's cluster mode, where a scrape reaches any one of the workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import lab
from lab import waiting
from lab.waiting import scaled
from tests.lab.application_fixtures import NODE, ApplicationDatabase, Color, Estate, RedisServer, Releases

PM2 = Path(lab.__file__).parent / "node" / "node_modules" / "pm2" / "bin" / "pm2"
SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$")
LABEL = re.compile(r'(\w+)="([^"]*)"')

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Sample:
    name: str
    labels: dict[str, str]
    value: float


class Cluster:
    """Two workers of a color under an own PM2 daemon."""

    def __init__(self, color: Color) -> None:
        self.color = color
        self.environment = {
            "PATH": os.environ["PATH"],
            "PM2_HOME": str(color.directory / "pm2"),
            "HOME": "/nonexistent",
        }
        # An ephemeral connection each: the cluster hands them out in turn.
        self.client = httpx.Client(
            base_url=color.client.base_url, limits=httpx.Limits(max_keepalive_connections=0), timeout=2
        )

    def pm2(self, *arguments: str) -> str:
        command = [NODE, str(PM2), "-s", *arguments]
        finished = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=scaled(60), check=True
        )
        return finished.stdout

    def start(self) -> None:
        ecosystem = self.color.directory / "ecosystem.config.js"
        app = {
            "name": "sebenza-blue",
            "cwd": str(self.color.release),
            "script": "dist/server.js",
            "exec_mode": "cluster",
            "instances": 2,
            "wait_ready": True,
            "listen_timeout": 10000,
            "kill_timeout": 10000,
            "env": {"SEBENZA_ENV_FILE": str(self.color.env_file)},
        }
        ecosystem.write_text(f"module.exports = {{ apps: [{json.dumps(app)}] }}")
        self.pm2("start", str(ecosystem))
        waiting.until(lambda: len(self.workers()) == 2, "two workers give their metrics")

    def processes(self) -> list[dict[str, object]]:
        return [entry for entry in json.loads(self.pm2("jlist")) if entry["pm2_env"]["status"] == "online"]

    def pids(self) -> set[int]:
        return {int(str(entry["pid"])) for entry in self.processes()}

    def samples(self, name: str = "") -> list[Sample]:
        found = []
        for line in self.client.get("/metrics").text.splitlines():
            match = SAMPLE.match(line)
            if match and match[1].startswith(name):
                found.append(Sample(match[1], dict(LABEL.findall(match[2])), float(match[3])))
        return found

    def workers(self) -> set[str]:
        try:
            return {sample.labels["worker"] for sample in self.samples("process_start_time_seconds")}
        except httpx.TransportError:
            return set()


@pytest.fixture(scope="module")
def cluster(
    app_releases: Releases,
    app_servers: tuple[ApplicationDatabase, RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    estate = Estate(app_releases, *app_servers, tmp_path_factory.mktemp("cluster"))
    cluster = Cluster(estate.migrated("v1.0.0"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.pm2("kill")
        estate.end()


def test_one_scrape_has_every_worker_exactly_once(cluster: Cluster) -> None:
    for _ in range(4):
        samples = cluster.samples()
        series = Counter((sample.name, *sorted(sample.labels.items())) for sample in samples)
        assert max(series.values()) == 1
        assert {int(worker.split("-")[1]) for worker in cluster.workers()} == cluster.pids()
        assert all({"worker", "color", "release"} <= sample.labels.keys() for sample in samples)


def test_requests_are_counted_once_whoever_answers(cluster: Cluster) -> None:
    def counted() -> float:
        wanted = {"route": "/api/v1/auth/me", "status": "200"}.items()
        return sum(sample.value for sample in cluster.samples("http_requests_total") if wanted <= sample.labels.items())

    before = counted()
    for _ in range(30):
        assert cluster.client.get("/api/v1/auth/me").status_code == 200
    assert [counted() - before for _ in range(4)] == [30] * 4


def test_the_names_are_the_manuals(cluster: Cluster) -> None:
    cluster.client.get("/api/v1/projects")
    samples = cluster.samples()
    assert {
        "http_request_duration_seconds_bucket",
        "http_requests_total",
        "active_users_total",
        "database_connections_active",
    } <= {sample.name for sample in samples}
    bounds = {sample.labels["le"] for sample in samples if sample.name == "http_request_duration_seconds_bucket"}
    assert bounds == {"0.1", "0.5", "1", "2", "5", "10", "+Inf"}


def test_paths_make_no_series(cluster: Cluster) -> None:
    for number in range(20):
        cluster.client.get(f"/api/v1/projects/project-{number}")
        cluster.client.get(f"/nowhere/{number}")
    routes = {sample.labels["route"] for sample in cluster.samples("http_requests_total")}
    assert {"/api/v1/projects/:id", "unmatched"} <= routes
    assert not [route for route in routes if "project-" in route or "nowhere" in route]


def test_a_killed_worker_leaves_no_series_and_no_socket(cluster: Cluster) -> None:
    victim = min(cluster.pids())
    os.kill(victim, signal.SIGKILL)
    waiting.until(lambda: victim not in cluster.pids() and len(cluster.workers()) == 2, "PM2 has replaced the worker")
    assert str(victim) not in {worker.split("-")[1] for worker in cluster.workers()}
    sockets = {path.name for path in (cluster.color.directory / "run").glob("*.sock")}
    assert sockets == {f"worker-{pid}.sock" for pid in cluster.pids()}


def test_a_silent_worker_is_reported(cluster: Cluster) -> None:
    def states() -> dict[str, float]:
        return {sample.labels["state"]: sample.value for sample in cluster.samples("metrics_workers")}

    def answered() -> bool:
        # A request that is handed to the stopped worker waits for it: ask until the other one answers.
        try:
            return states() == {"gathered": 1, "silent": 1}
        except httpx.TimeoutException:
            return False

    assert states() == {"gathered": 2, "silent": 0}
    victim = min(cluster.pids())
    os.kill(victim, signal.SIGSTOP)
    try:
        waiting.until(answered, "the other worker says that one is silent")
    finally:
        os.kill(victim, signal.SIGCONT)


def test_pm2_knows_no_secret(cluster: Cluster) -> None:
    dump = cluster.pm2("jlist")
    assert "SEBENZA_ENV_FILE" in dump
    assert "DATABASE_URL" not in dump
    assert cluster.color.variables["DATABASE_URL"] not in dump


def test_a_reload_under_load_fails_no_request(cluster: Cluster) -> None:
    old = cluster.pids()
    reload = subprocess.Popen(
        [NODE, str(PM2), "-s", "reload", "sebenza-blue"], env=cluster.environment, stdout=subprocess.DEVNULL
    )
    statuses: Counter[int] = Counter()
    while reload.poll() is None:
        statuses[cluster.client.get("/api/v1/projects").status_code] += 1
    assert set(statuses) == {200}
    assert not old & cluster.pids()
