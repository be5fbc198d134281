"""Who is told: amtool asks the routes, and a real Alertmanager delivers to the mailbox."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab import addresses, waiting
from lab.mailbox.client import Mailbox
from lab.waiting import scaled


def amtool(etc: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["amtool", *arguments]
    return subprocess.run(command, cwd=etc / "alertmanager", capture_output=True, text=True, check=False)


def test_the_configuration_is_valid(etc: Path):
    checked = amtool(etc, "check-config", "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "3 receivers" in checked.stdout


@pytest.mark.parametrize(
    ("receiver", "labels"),
    [
        ("critical", ["alertname=ApplicationDown", "severity=critical", "environment=production"]),
        ("critical", ["alertname=PrometheusCannotNotify", "severity=critical", "environment=monitoring"]),
        ("warning", ["alertname=HighCpuUsage", "severity=warning", "environment=staging"]),
        ("heartbeat", ["alertname=Watchdog", "severity=none", "environment=monitoring"]),
        ("warning", ["alertname=Unlabelled"]),
    ],
)
def test_routes(etc: Path, receiver: str, labels: list[str]):
    arguments = ["config", "routes", "test", "--config.file=alertmanager.yml", f"--verify.receivers={receiver}"]
    verified = amtool(etc, *arguments, *labels)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    arguments[-1] = "--verify.receivers=nobody"
    assert amtool(etc, *arguments, *labels).returncode != 0


def test_secrets_are_in_files_of_their_owner_only(etc: Path):
    configuration = (etc / "alertmanager" / "alertmanager.yml").read_text()
    for secret in (etc / "alertmanager" / "secrets").iterdir():
        assert secret.stat().st_mode & 0o077 == 0
        assert secret.read_text() not in configuration


@pytest.fixture
def mailbox(network: str, tmp_path: Path) -> Iterator[Mailbox]:
    command = [sys.executable, "-m", "lab.mailbox", "--listen", addresses.address("mailbox")]
    process = subprocess.Popen([*command, "--state", str(tmp_path / "mailbox")])
    client = Mailbox(f"http://{addresses.endpoint('mailbox', addresses.MAILBOX_HTTP_PORT)}")
    try:
        waiting.until(client.healthy, "the mailbox answers")
        yield client
    finally:
        process.terminate()
        process.wait(scaled(10))


@pytest.fixture
def alertmanager(etc: Path, mailbox: Mailbox, tmp_path: Path) -> Iterator[str]:
    endpoint = addresses.endpoint("monitoring", addresses.ALERTMANAGER_PORT)
    arguments = ["--config.file", str(etc / "alertmanager" / "alertmanager.yml"), "--storage.path", str(tmp_path / "a")]
    arguments += ["--web.listen-address", endpoint, "--cluster.listen-address", "", "--log.level", "warn"]
    process = subprocess.Popen(["/usr/bin/prometheus-alertmanager", *arguments])
    host, _, port = endpoint.partition(":")
    try:
        waiting.until(lambda: waiting.accepts_connections(host, int(port)), "Alertmanager listens")
        yield f"http://{endpoint}"
    finally:
        process.terminate()
        process.wait(scaled(10))


def post_alert(url: str, severity: str, name: str, *, ended: bool = False) -> None:
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": name, "severity": severity, "environment": "production", "color": "green"},
        "annotations": {"summary": f"{name} in production", "description": "8% of requests fail"},
        "startsAt": (now - timedelta(minutes=1)).isoformat(),
        "endsAt": (now if ended else now + timedelta(hours=1)).isoformat(),
    }
    request = urllib.request.Request(
        f"{url}/api/v2/alerts", json.dumps([alert]).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=5).close()


@pytest.mark.integration
def test_a_critical_alert_pages_and_its_end_resolves_the_page(alertmanager: str, mailbox: Mailbox):
    post_alert(alertmanager, "critical", "HighErrorRate")
    for channel in ("pagerduty", "slack", "email"):
        mailbox.await_message(
            lambda message: "HighErrorRate in production" in message["text"],
            timeout_seconds=15,
            channel=channel,
        )
    (incident,) = mailbox.incidents()
    assert (incident["status"], incident["severity"]) == ("triggered", "critical")
    post_alert(alertmanager, "critical", "HighErrorRate", ended=True)
    mailbox.await_message(lambda message: message["event_action"] == "resolve", timeout_seconds=20, channel="pagerduty")
    mailbox.await_message(lambda message: "RESOLVED" in message["text"], timeout_seconds=20, channel="slack")
    (incident,) = mailbox.incidents()
    assert incident["status"] == "resolved"
    assert mailbox.refusals() == []


@pytest.mark.integration
def test_a_warning_is_told_and_does_not_page(alertmanager: str, mailbox: Mailbox):
    post_alert(alertmanager, "warning", "HighCpuUsage")
    told = mailbox.await_message(lambda message: True, timeout_seconds=15, channel="slack")
    assert told["slack_channel"] == "#alerts-warning"
    mail = mailbox.await_message(lambda message: True, timeout_seconds=15, channel="email")
    assert mail["to"] == ["devops@company.com"]
    assert mailbox.messages("pagerduty") == []
