"""The load generator accounts for every request, once, and names what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lab import waiting
from lab.load import LoadGenerator, LoadReport
from lab.load.report import percentile, read_requests
from lab.waiting import scaled
from tests.lab.failing_server import FailingServer, write_certificate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FailingServer]:
    with FailingServer(tmp_path) as running:
        yield running


def run(server: FailingServer, **settings: Any) -> LoadReport:
    chosen: dict[str, Any] = {
        "load_balancers": {"lb1": server.address},
        "ca_file": server.ca_file,
        "rate": 50,
        "duration_seconds": 1,
        "connections": 2,
        # Far beyond what a busy machine makes of an answer.
        "timeout_seconds": 60,
    } | settings
    with LoadGenerator(**chosen) as load:
        return load.wait()


def test_good_requests_of_both_kinds_are_counted_once(server: FailingServer):
    report = run(server, rate=200, fresh_share=0.5, request_paths=["/ok"])
    assert report.failed == 0
    assert report.requests == server.received["GET /ok"] >= 200
    fresh = sum(1 for request in report.all_requests if request.kind == "fresh")
    assert server.connections >= fresh > report.requests * 0.3  # a connection of its own for each fresh one
    reused = [request for request in report.all_requests if request.kind == "keep_alive"]
    assert server.connections - fresh < len(reused)  # and shared ones for the rest
    assert {request.release for request in report.all_requests} == {"v1"}
    assert report.requests_to("blue") == report.requests


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("/error", "server_error"),
        ("/teapot", "unexpected_status"),
        ("/reset", "reset"),
        ("/truncated", "truncated"),
        ("/cut-chunk", "truncated"),
        ("/garbage", "protocol_error"),
        ("/partial-head", "reset"),
        ("/slow", "timeout"),
    ],
)
@pytest.mark.parametrize("fresh_share", [0.0, 1.0])
def test_each_kind_of_failure_is_counted_once(server: FailingServer, path: str, outcome: str, fresh_share: float):
    settings = {"rate": 20, "duration_seconds": 0.5, "fresh_share": fresh_share}
    if outcome == "timeout":
        settings["timeout_seconds"] = 1
    report = run(server, request_paths=[path], **settings)
    assert report.requests == server.received[f"GET {path}"] >= 10
    assert report.outcomes == {outcome: report.requests}
    assert report.failed == len(report.failures) == report.requests
    first = report.first_failure
    assert first is not None
    assert (first.load_balancer, first.route, first.outcome) == ("lb1", path, outcome)


def test_failures_among_good_requests(server: FailingServer):
    report = run(server, rate=300, request_paths=["/ok", "/ok", "/ok", "/error", "/reset", "/truncated"])
    for outcome, path in {"server_error": "/error", "truncated": "/truncated"}.items():
        assert report.outcomes[outcome] == server.received[f"GET {path}"] > 0
    # A reset on a connection used before may be an idle connection given up: sent again, reset again.
    assert report.outcomes["reset"] == server.received["GET /reset"] - report.retried > 0
    assert report.outcomes["ok"] == server.received["GET /ok"]
    assert sum(report.outcomes.values()) == report.requests
    counted = [counts for second in report.per_second for counts in second.colors.values()]
    assert sum(counts["failed"] for counts in counted) == report.failed
    assert sum(counts["ok"] for counts in counted) == report.requests - report.failed


def test_a_read_on_a_connection_that_the_server_gave_up_is_sent_again(server: FailingServer):
    server.requests_per_connection = 3
    report = run(server, rate=100, fresh_share=0.0, request_paths=["/ok"])
    assert server.unanswered > 0
    assert report.failed == 0
    assert report.retried == server.unanswered
    assert report.requests == server.received["GET /ok"] - server.unanswered


def test_the_client_closes_a_connection_that_it_does_not_use(server: FailingServer):
    report = run(server, rate=4, duration_seconds=2, fresh_share=0.0, idle_seconds=0.1, request_paths=["/ok"])
    assert report.failed == 0
    # Each request comes later than that after the one before it on the same connection.
    assert server.connections == report.requests


def test_a_client_that_was_kept_from_the_processor_still_sees_the_answers_that_came(server: FailingServer):
    settings: dict[str, Any] = {"load_balancers": {"lb1": server.address}, "ca_file": server.ca_file, "rate": 50}
    # More connections than requests are ever open: none is just being made, and every request has reached the server.
    settings |= {"connections": 100, "fresh_share": 0.0}
    with LoadGenerator(**settings, timeout_seconds=3, request_paths=["/late"]) as load:
        waiting.until(
            lambda: load.progress()["requests"] > 150 and load.progress()["in_flight"] > 5, "requests are under way"
        )
        (sender,) = psutil.Process().children()
        answered = server.answered
        sender.suspend()
        # Past the deadlines of all that were open.
        stopped_at = time.monotonic()
        waiting.until(
            lambda: server.answered > answered + 5 and time.monotonic() > stopped_at + 4, "the deadlines have passed"
        )
        sender.resume()
        report = load.stop()
    assert report.max_dispatch_delay_seconds > 1
    assert report.outcomes == {"ok": report.requests}


def test_a_write_on_such_a_connection_is_not_sent_again(server: FailingServer):
    server.requests_per_connection = 3
    report = run(server, rate=100, fresh_share=0.0, write_share=1.0)
    assert server.unanswered > 0
    assert report.retried == 0
    assert report.outcomes == {"ok": report.requests - server.unanswered, "reset": server.unanswered}


def test_a_retry_happens_once(server: FailingServer):
    server.requests_per_connection = 0
    report = run(server, rate=50, fresh_share=0.0, request_paths=["/ok"])
    # Every connection dies at its first request: none is reused, so nothing may be sent twice.
    assert report.retried == 0
    assert report.outcomes == {"reset": report.requests}
    assert server.received["GET /ok"] == report.requests


def test_nobody_listens(server: FailingServer):
    report = run(server, load_balancers={"lb1": ("127.0.0.1", 9)}, request_paths=["/ok"])
    assert report.outcomes == {"connect_error": report.requests}
    assert "ECONNREFUSED" in report.failures[0].error


def test_the_certificate_is_verified(server: FailingServer, tmp_path: Path):
    other_ca, _ = write_certificate(tmp_path, "other.example")
    untrusted = run(server, ca_file=other_ca, request_paths=["/ok"])
    assert untrusted.outcomes == {"tls_error": untrusted.requests}
    wrong_name = run(server, hostname="other.example", request_paths=["/ok"])
    assert wrong_name.outcomes == {"tls_error": wrong_name.requests}
    assert not server.received


def test_requests_to_a_color_after_a_moment_count_by_when_they_were_sent(server: FailingServer):
    settings: dict[str, Any] = {"load_balancers": {"lb1": server.address}, "ca_file": server.ca_file, "rate": 200}
    with LoadGenerator(**settings, fresh_share=0.3, request_paths=["/ok"]) as load:
        waiting.until(lambda: load.progress()["requests"] > 100, "users ask")
        server.color = "green"
        load.mark("switched")
        switched_at = load.progress()["requests"]
        waiting.until(lambda: load.progress()["requests"] > switched_at + 100, "users ask on")
        report = load.stop()
    switch = report.marks["switched"]
    # What was under way at the switch may have either color; what was sent later must not be blue.
    assert report.requests_to("blue", since=switch) == 0
    assert report.requests_to("blue", until=switch) > 50
    assert report.requests_to("green", since=switch) > 50
    assert report.requests_to("blue") + report.requests_to("green") == report.requests
    last = report.last_sent_to("blue")
    assert last is not None
    assert last < switch


def test_the_rate_is_kept_and_both_load_balancers_get_their_share(server: FailingServer):
    balancers = {"lb1": server.address, "lb2": server.address}
    report = run(server, load_balancers=balancers, rate=200, duration_seconds=2, request_paths=["/ok"])
    opening = 2 * 2  # the first request on each keep-alive connection
    assert report.requests == 400 + opening
    shares = [sum(1 for request in report.all_requests if request.load_balancer == lb) for lb in balancers]
    assert abs(shares[0] - shares[1]) <= 2


def test_the_manuals_routes_are_asked(server: FailingServer):
    report = run(server, rate=300, write_share=0.1)
    asked = {(request.method, request.route) for request in report.all_requests}
    assert asked == {
        ("GET", "/api/v1/auth/me"),
        ("GET", "/api/v1/projects"),
        ("GET", "/api/v1/projects/:id"),
        ("GET", "/api/v1/invoices"),
        ("GET", "/api/v1/dashboard/metrics"),
        ("GET", "/api/v1/dashboard/recent-activity"),
        ("POST", "/api/v1/projects"),
        ("POST", "/api/v1/invoices"),
    }
    assert report.failed == 0


def test_the_report_as_json(server: FailingServer, tmp_path: Path):
    report = run(server, request_paths=["/ok", "/error"])
    report.write(tmp_path / "out" / "load.json")
    written = json.loads((tmp_path / "out" / "load.json").read_text())
    assert written["requests"] == report.requests
    assert written["failed"] == len(written["failures"]) == report.failed > 0
    assert written["histogram"]["+Inf"] == report.requests
    assert 0 < written["generator"]["cpu_cores"] < 2


def test_the_sending_process_ends_with_the_one_that_started_it(server: FailingServer):
    code = f"""
import time, pathlib
from lab.load import LoadGenerator
balancers = {{"lb1": {server.address!r}}}
load = LoadGenerator(load_balancers=balancers, ca_file=pathlib.Path({str(server.ca_file)!r}), request_paths=["/ok"])
load.start()
print("sending", flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"sending\n"
    (sender,) = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait(scaled(10))
    sender.wait(scaled(10))  # raises TimeoutExpired while it lives
    parent.stdout.close()


def test_a_log_cut_off_in_a_line_is_read_up_to_there(tmp_path: Path):
    line = "1.5\t1.4\t1.6\tlb1\tfresh\tGET\t/\t200\tblue\tr1\tok\t0\tid\t\n"
    log = tmp_path / "requests.tsv"
    log.write_text(line + line + line[:20])
    assert len(read_requests(log)) == 2


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.95, 0.0), ([1.0], 0.5, 1.0), ([3.0, 1.0, 2.0, 4.0], 0.5, 2.0), (list(range(1, 101)), 0.95, 95)],
)
def test_percentile(values: list[float], share: float, expected: float):
    assert percentile(values, share) == expected
