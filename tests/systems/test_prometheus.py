"""Prometheus itself, and servers that answer as it never would."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.prometheus import Prometheus
from tests.systems.processes import LOOPBACK, accepts, free_port, server, until

pytestmark = pytest.mark.integration

RULES = """\
groups:
  - name: test
    interval: 1s
    rules:
      - {alert: Critical, expr: vector(1), labels: {severity: critical, environment: production},
         annotations: {summary: it is bad}}
      - {alert: Pending, expr: vector(1), for: 1h, labels: {severity: warning}}
"""

STARTED_AT = datetime.now(UTC)


def connect(monkeypatch: pytest.MonkeyPatch, port: int) -> Prometheus:
    connection = {"conn_type": "http", "host": LOOPBACK, "port": port, "schema": "http"}
    monkeypatch.setenv("AIRFLOW_CONN_TEST_PROMETHEUS", json.dumps(connection))
    return Prometheus("test_prometheus")


@pytest.fixture(scope="module")
def real_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Prometheus that evaluates two alerts and scrapes nothing."""
    program = shutil.which("prometheus")
    assert program is not None, "prometheus is not installed"
    directory, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (directory / "rules.yml").write_text(RULES)
    (directory / "prometheus.yml").write_text(f"rule_files: [{directory}/rules.yml]\n")
    argv = [program, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data"]
    argv.append(f"--web.listen-address={LOOPBACK}:{port}")
    with server(argv, directory / "log", lambda: accepts(port)):
        yield port


@pytest.fixture
def real(real_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Prometheus]:
    prometheus = connect(monkeypatch, real_port)

    def answers() -> bool:
        try:
            return prometheus.scalar("vector(1)") == 1
        except OutsideSystemError:
            return False

    until(answers, "Prometheus answers queries")
    yield prometheus
    prometheus.close()


def test_a_query_gives_series_with_labels_value_and_moment(real: Prometheus) -> None:
    before = time.time()
    (sample,) = real.query('label_replace(vector(2.5), "color", "green", "", "")')
    assert (sample.labels, sample.value) == ({"color": "green"}, 2.5)
    # In milliseconds.
    assert before - 0.001 <= sample.at <= time.time() + 0.001


@pytest.mark.parametrize("expression", ["vector(0) / 0", "no_such_metric", "sum(no_such_metric)"])
def test_nan_and_nothing_are_no_data(real: Prometheus, expression: str) -> None:
    assert real.query(expression) == []
    with pytest.raises(NoDataError, match="no data for"):
        real.scalar(expression)


def test_infinity_is_a_value(real: Prometheus) -> None:
    assert real.scalar("vector(1) / 0") == float("inf"), "a percentile beyond the last bucket must not vanish"


@pytest.mark.parametrize("expression", ["sum(", "", "rate(x)"])
def test_a_query_that_is_none_is_refused_with_its_reason(real: Prometheus, expression: str) -> None:
    with pytest.raises(OutsideSystemError, match=r"refused /api/v1/query: .*parse error"):
        real.query(expression)


@pytest.mark.parametrize("expression", ["1", '"text"'])
def test_a_query_that_gives_no_series_is_named(real: Prometheus, expression: str) -> None:
    with pytest.raises(OutsideSystemError, match="not Prometheus'"):
        real.query(expression)


def test_alerts_that_fire_and_those_that_wait(real: Prometheus) -> None:
    until(lambda: len(real.alerts()) == 2, "the rules were evaluated")
    alerts = {alert.name: alert for alert in real.alerts()}
    critical = alerts["Critical"]
    assert (critical.state, critical.severity, critical.environment) == ("firing", "critical", "production")
    assert critical.summary == "it is bad"
    assert alerts["Pending"].state == "pending"
    assert STARTED_AT <= critical.active_since <= datetime.now(UTC)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    prometheus = connect(monkeypatch, free_port())
    with pytest.raises(OutsideSystemError, match="prometheus: no answer"):
        prometheus.query("up")


class Answering:
    """A server that is no Prometheus: it answers whatever it is told."""

    def __init__(self) -> None:
        self.status, self.body, self.wait_seconds = 200, "", 0.0
        self.has_answered = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.release.wait(outer.wait_seconds)
                outer.has_answered = True
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.body.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        self.release = threading.Event()
        self.web = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self.web.daemon_threads = True
        self.web.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def stop(self) -> None:
        self.release.set()
        self.web.shutdown()
        self.web.server_close()
        self.thread.join()


@pytest.fixture
def strange() -> Iterator[Answering]:
    found = Answering()
    yield found
    found.stop()


def success(data: Any) -> str:
    return json.dumps({"status": "success", "data": data})


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, ""),
        (200, "<html>login</html>"),
        (200, "[]"),
        (200, "null"),
        (200, '"success"'),
        (200, '{"status": "success"}'),
        (200, success(None)),
        (200, success({})),
        (200, success({"result": [{}], "alerts": [{}]})),
        (200, success({"result": [{"metric": {}, "value": []}], "alerts": [{"labels": {}, "state": "firing"}]})),
        (200, success({"result": [{"metric": {}, "value": [1, "x"]}], "alerts": ["x"]})),
        (200, success({"result": [{"metric": {}, "histogram": []}], "alerts": 5})),
        (503, "Service Unavailable"),
        (401, '{"message": "who are you?"}'),
    ],
)
def test_whatever_else_answers_is_an_outside_error(
    strange: Answering, monkeypatch: pytest.MonkeyPatch, status: int, body: str
) -> None:
    strange.status, strange.body = status, body
    prometheus = connect(monkeypatch, strange.web.server_address[1])
    for ask in (lambda: prometheus.query("up"), prometheus.alerts):
        # Anything else would end a bake with a stack trace, in the middle of the switch.
        with pytest.raises(OutsideSystemError, match="prometheus: "):
            ask()


def test_an_answer_that_does_not_come_is_not_waited_for(strange: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    # Until this test is over.
    strange.wait_seconds = 3600
    prometheus = connect(monkeypatch, strange.web.server_address[1])
    with pytest.raises(OutsideSystemError, match="no answer"):
        prometheus.query("up")
    assert not strange.has_answered


@pytest.mark.parametrize("fraction", ["", ".1", ".123456789"])
def test_every_form_of_a_moment_is_read(strange: Answering, monkeypatch: pytest.MonkeyPatch, fraction: str) -> None:
    moment = f"2026-03-01T02:00:00{fraction}Z"
    strange.body = success({"alerts": [{"labels": {}, "state": "firing", "activeAt": moment}]})
    (alert,) = connect(monkeypatch, strange.web.server_address[1]).alerts()
    assert alert.active_since.replace(microsecond=0) == datetime(2026, 3, 1, 2, tzinfo=UTC)
    assert (alert.name, alert.severity, alert.environment, alert.summary) == ("", "", "", "")
