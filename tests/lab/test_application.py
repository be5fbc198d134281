"""The sample application, run as a real process on real servers."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from lab import waiting
from lab.waiting import scaled
from sebenza_ops.environments.env_file import format_variable
from tests.lab.application_fixtures import NODE, ApplicationDatabase, Color, Estate, RedisServer, Releases

pytestmark = pytest.mark.integration

# One of the seeded projects.
PROJECT = "/api/v1/projects/c0ad4cb2-585a-a975-fc65-31134824093f"


@pytest.fixture(scope="module")
def running(
    app_releases: Releases,
    app_servers: tuple[ApplicationDatabase, RedisServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Estate, Color]]:
    directory = tmp_path_factory.mktemp("application")
    estate = Estate(app_releases, *app_servers, directory)
    try:
        (directory / "log").mkdir()
        color = estate.migrated("v1.0.0", SEBENZA_LOG_DIR=str(directory / "log"), LOG_LEVEL="debug")
        color.start()
        yield estate, color
    finally:
        estate.end()


@pytest.fixture
def client(running: tuple[Estate, Color]) -> httpx.Client:
    return running[1].client


def log_entries(color: Color) -> list[dict[str, object]]:
    path = Path(color.variables["SEBENZA_LOG_DIR"]) / "app-blue.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/auth/me", None, 200),
        ("GET", "/api/v1/projects", None, 200),
        ("GET", "/api/v1/projects/k3j4h5", None, 404),
        ("POST", "/api/v1/projects", {"name": "Test Project"}, 201),
        ("GET", "/api/v1/invoices", None, 200),
        ("POST", "/api/v1/invoices", {"clientId": "k3j4h5"}, 422),
        ("POST", "/api/v1/invoices", {"clientId": "C-0002", "amountCents": 1250}, 201),
        ("GET", "/api/v1/dashboard/metrics", None, 200),
        ("GET", "/api/v1/dashboard/recent-activity", None, 200),
        ("GET", "/api/v1/clients", None, 200),
        ("GET", "/health", None, 200),
        ("GET", "/version", None, 200),
        ("GET", "/metrics", None, 200),
        ("GET", "/", None, 200),
        ("GET", "/no/such/page", None, 404),
        ("POST", "/api/v1/projects", {"name": ""}, 400),
        ("POST", "/api/v1/invoices", {"clientId": "C-0002", "amountCents": -1}, 400),
    ],
)
def test_routes_answer_and_say_who_answered(
    running: tuple[Estate, Color], client: httpx.Client, method: str, path: str, body: object, status: int
) -> None:
    response = client.request(method, path, json=body, headers={"X-Request-Id": "7F000001:A1_7F:1F90_65:0001:22"})
    assert response.status_code == status
    assert response.headers["X-Color"] == "blue"
    assert response.headers["X-Release"] == running[0].releases.release_id("v1.0.0")
    assert response.headers["X-Request-Id"] == "7F000001:A1_7F:1F90_65:0001:22"
    if status >= 400:
        assert response.json()["error"].keys() == {"code", "message", "request_id"}


def test_version_names_the_release(running: tuple[Estate, Color], client: httpx.Client) -> None:
    answer = client.get("/version").json()
    estate, color = running
    assert color.process is not None
    assert answer["version"] == "v1.0.0"
    assert answer["sha"] == estate.releases.shas["v1.0.0"]
    assert answer["release_id"] == estate.releases.release_id("v1.0.0")
    assert (answer["color"], answer["schema_revision"], answer["pid"]) == ("blue", 1, color.process.pid)


def test_a_request_id_that_is_no_id_is_replaced(client: httpx.Client) -> None:
    response = client.get("/version", headers={"X-Request-Id": 'x" onload="'})
    assert re.fullmatch(r"[0-9a-f-]{36}", response.headers["X-Request-Id"])


def test_writing_needs_a_token(client: httpx.Client) -> None:
    response = client.post("/api/v1/projects", json={"name": "x"}, headers={"Authorization": ""})
    assert response.status_code == 401


def test_malformed_json_is_the_clients_error(client: httpx.Client) -> None:
    response = client.post("/api/v1/projects", content="{bad", headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "bad_request")


def test_a_batch_is_kept_whole_or_not_at_all(running: tuple[Estate, Color], client: httpx.Client) -> None:
    estate, color = running
    good = [{"clientId": "C-0001", "amountCents": number} for number in range(100, 140)]
    with estate.database.connect(color.database) as connection:

        def count() -> int:
            row = connection.execute("SELECT count(*) FROM invoices").fetchone()
            assert row is not None
            return int(row[0])

        before = count()
        refused = client.post("/api/v1/invoices/batch", json={"invoices": [*good, {"clientId": "nobody"}]})
        assert (refused.status_code, count()) == (422, before)
        kept = client.post("/api/v1/invoices/batch", json={"invoices": good})
        assert (kept.status_code, len(kept.json()["invoices"]), count()) == (201, 40, before + 40)


def test_a_change_forgets_what_the_cache_had(running: tuple[Estate, Color], client: httpx.Client) -> None:
    with redis.Redis.from_url(running[1].variables["REDIS_URL"]) as cache:
        me = client.get("/api/v1/auth/me").json()["id"]
        # More than one batch of SCAN, beside a key of somebody else.
        cache.mset({f"sebenza:1:projects:{me}:page{number}": "[]" for number in range(1200)})
        cache.set("sebenza:1:projects:somebody:list", "[]")
        client.get("/api/v1/projects")
        cache.config_resetstat()
        client.post("/api/v1/projects", json={"name": "Fresh"})
        used = cache.info("commandstats")
        assert cache.keys(f"sebenza:1:projects:{me}:*") == []
        assert cache.exists("sebenza:1:projects:somebody:list") == 1
    assert client.get("/api/v1/projects").json()["projects"][0]["name"] == "Fresh"
    assert used["cmdstat_scan"]["calls"] > 1
    assert "cmdstat_keys" not in used


def test_a_project_is_found_after_it_was_made(client: httpx.Client) -> None:
    made = client.post("/api/v1/projects", json={"name": "Depot", "clientId": "C-0003"})
    found = client.get(made.headers["Location"]).json()
    assert (found["name"], found["client_name"]) == ("Depot", "Client 3")


def test_the_log_says_who_did_what_for_which_request(running: tuple[Estate, Color], client: httpx.Client) -> None:
    made = client.post("/api/v1/projects", json={"name": "Audited"}, headers={"X-Request-Id": "audit-test"})
    user = client.get("/api/v1/auth/me").json()["id"]
    entries = [entry for entry in log_entries(running[1]) if entry.get("requestId") == "audit-test"]
    audit = next(entry for entry in entries if entry["category"] == "audit")
    assert audit["userId"] == user
    assert audit["message"] == f"create on project {made.json()['id']}"
    assert any(entry["category"] == "access" for entry in entries)


def test_the_log_goes_on_in_a_new_file_after_a_rotation(running: tuple[Estate, Color], client: httpx.Client) -> None:
    color = running[1]
    assert color.process is not None
    path = Path(color.variables["SEBENZA_LOG_DIR"]) / "app-blue.log"
    path.rename(path.with_suffix(".1"))
    color.process.send_signal(signal.SIGUSR2)
    waiting.until(path.exists, "the log file is opened anew")
    client.get("/version", headers={"X-Request-Id": "after-rotation"})
    waiting.until(lambda: "after-rotation" in path.read_text(), "the line is in the new file")


def test_without_redis_the_database_answers(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    app_estate.cache.stop()
    try:
        color.start()
        health = color.client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["checks"]["cache"]["status"] == "degraded"
        assert color.client.get("/api/v1/projects").status_code == 200
        assert color.client.post("/api/v1/projects", json={"name": "x"}).status_code == 201
        assert "\nactive_users_total{" not in color.client.get("/metrics").text
    finally:
        app_estate.cache.start()
    waiting.until(lambda: color.client.get("/health").json()["status"] == "ok", "the cache is used again")


def test_without_the_database_it_refuses_and_recovers(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    color.start()
    app_estate.database.halt()
    try:
        waiting.until(lambda: color.client.get("/health").status_code == 503, "the health check fails")
        assert color.client.get("/health").json()["checks"]["database"]["status"] == "failed"
        response = color.client.get(PROJECT)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    finally:
        app_estate.database.resume()
    waiting.until(color.is_healthy, "the worker is healthy again")
    assert color.client.get(PROJECT).status_code == 200


@contextmanager
def locked_projects(estate: Estate, color: Color, request: threading.Thread) -> Iterator[None]:
    """Start a request for a project and hold it in flight, by a lock on the table."""
    waits = "SELECT 1 FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    connect = functools.partial(estate.database.connect, color.database)
    with connect() as watcher, connect() as lock, lock.transaction():
        lock.execute("LOCK TABLE projects")
        request.start()
        waiting.until(lambda: watcher.execute(waits, [color.database]).fetchone() is not None, "it is in flight")
        yield


def test_draining_finishes_what_is_in_flight(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    color.start()
    answers: list[httpx.Response] = []
    request = threading.Thread(target=lambda: answers.append(color.client.get(PROJECT)))
    with locked_projects(app_estate, color, request):
        assert color.process is not None
        color.process.send_signal(signal.SIGINT)
        waiting.until(lambda: not waiting.accepts_connections("127.0.0.1", color.port), "no new connections")
        assert color.process.poll() is None
    request.join(scaled(10))
    assert color.process.wait(scaled(10)) == 0
    assert answers[0].status_code == 200
    assert "stopped" in color.output.read_text()


def test_an_open_connection_is_told_to_close(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    color.write_env_file(DRAIN_GRACE_MS="3000")
    color.start()
    color.client.get("/version")
    assert color.process is not None
    color.process.send_signal(signal.SIGTERM)
    waiting.until(lambda: "draining" in color.output.read_text(), "the drain begins")
    response = color.client.get("/version")
    assert (response.status_code, response.headers["Connection"]) == (200, "close")
    assert color.process.wait(scaled(10)) == 0


def test_work_that_never_ends_is_cut_at_the_deadline(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    color.write_env_file(DRAIN_TIMEOUT="1", DRAIN_GRACE_MS="0")
    color.start()
    failures: list[Exception] = []

    def ask() -> None:
        try:
            color.client.get(PROJECT)
        except httpx.TransportError as error:
            failures.append(error)

    request = threading.Thread(target=ask)
    with locked_projects(app_estate, color, request):
        assert color.process is not None
        color.process.send_signal(signal.SIGINT)
        request.join(scaled(10))
        assert failures
        waiting.until(lambda: '"connections_cut":1' in color.output.read_text(), "the worker says what it cut")
    assert color.process.wait(scaled(10)) == 0


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("APP_PORT", "http", "APP_PORT: expected a whole number from 1 to 65535, got 'http'"),
        ("NODE_ENV", "prod", "NODE_ENV: expected one of production, staging, development, got 'prod'"),
        ("SEBENZA_COLOR", "", "SEBENZA_COLOR: expected one of blue, green"),
        ("DATABASE_URL", "", "DATABASE_URL: is required"),
        ("DATABASE_URL", "mysql://user:secret@db/x", "DATABASE_URL: expected a URL starting with postgresql://"),
        ("REDIS_URL", "cache:6379", "REDIS_URL: expected a URL"),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: expected one of error, warn, info, debug"),
        ("METRICS_ENABLED", "yes", "METRICS_ENABLED: expected true or false"),
        ("DB_POOL_SIZE", "0", "DB_POOL_SIZE: expected a whole number"),
        ("CACHE_TTL", "1.5", "CACHE_TTL: expected a whole number"),
    ],
)
def test_a_bad_setting_ends_the_start_and_is_named(app_estate: Estate, variable: str, value: str, said: str) -> None:
    color = app_estate.color("v1.0.0", "unused_1")
    color.write_env_file(**{variable: value})
    color.start(until_healthy=False)
    assert color.process is not None
    assert color.process.wait(scaled(10)) == 1
    output = color.output.read_text()
    assert said in output
    assert "secret" not in output


def test_a_quiet_worker_has_connections_ready(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.0.0")
    color.start()
    metrics = color.client.get("/metrics").text
    assert re.search(r"^database_connections_open\{.*\} 5$", metrics, re.MULTILINE)
    assert re.search(r"^database_connections_active\{.*\} 0$", metrics, re.MULTILINE)


def test_a_worker_that_is_not_ready_yet_can_be_stopped(app_estate: Estate) -> None:
    color = app_estate.color("v1.0.0", app_estate.database.create_numbered_database())
    color.start(until_healthy=False)
    waiting.until(lambda: "not ready yet" in color.output.read_text(), "it waits for its schema")
    assert color.stop() == 0


def test_an_empty_database_is_named_and_seeding_helps_at_once(app_estate: Estate) -> None:
    color = app_estate.color("v1.0.0", app_estate.database.create_numbered_database())
    assert color.run("migrate", "up").returncode == 0
    color.start()
    refused = color.client.get("/api/v1/projects")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_users")
    assert color.run("seed").returncode == 0
    assert color.client.get("/api/v1/projects").status_code == 200


def test_it_reads_an_env_file_as_deployments_write_it(app_releases: Releases, tmp_path: Path) -> None:
    values = {
        "PLAIN": "postgresql://user:p%40ss@db:5432/x?a=b",
        "SPACES": " two  words ",
        "HASH": "a #b",
        "DOLLAR": 'a"$b\\c`',
        "QUOTE": "it's",
        "EMPTY": "",
    }
    path = tmp_path / "app.env"
    path.write_text("# a comment\n" + "\n".join(format_variable(*item) for item in values.items()) + "\n")
    script = "console.log(JSON.stringify(require('./dist/envfile').readEnvFile(process.argv[1])))"
    command = [NODE, "-e", script, str(path)]
    tree = app_releases.build("v1.0.0")
    finished = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout) == values


def test_a_pool_has_the_manuals_size(app_releases: Releases) -> None:
    script = """
const { parseSettings } = require('./dist/config')
const size = (environment, extra) => parseSettings({ NODE_ENV: environment, SEBENZA_COLOR: 'blue',
  DATABASE_URL: 'postgresql://db/x', REDIS_URL: 'redis://cache', ...extra }, '/x/app.env').database
console.log(JSON.stringify([size('staging'), size('production'), size('production', { DB_POOL_SIZE: '7' })]))
"""
    tree = app_releases.build("v1.0.0")
    finished = subprocess.run([NODE, "-e", script], cwd=tree, capture_output=True, text=True, check=True)
    staging, production, own = json.loads(finished.stdout)
    assert (staging["poolSize"], production["poolSize"], own["poolSize"]) == (10, 20, 7)
    assert (production["idleTimeoutMs"], production["connectTimeoutMs"]) == (30000, 2000)
