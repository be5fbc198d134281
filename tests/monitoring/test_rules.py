"""The alert rules say what the manual means: promtool runs a firing and a quiet case of each."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import waiting
from lab.monitoring import configuration
from lab.waiting import scaled

CASES = configuration.TEMPLATES / "tests"


def parsed_rules() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(configuration.rules(configuration.PRODUCTION_TIMING, databases=True))
    return loaded


def alerts() -> list[str]:
    return sorted({rule["alert"] for group in parsed_rules()["groups"] for rule in group["rules"] if "alert" in rule})


def promtool(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=directory, capture_output=True, text=True, check=False)


def run_cases(directory: Path, rules: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    (directory / "alert_rules.yml").write_text(yaml.safe_dump(rules))
    for case in CASES.glob("*.yml"):
        shutil.copy(case, directory)
    return promtool("test", "rules", *sorted(case.name for case in CASES.glob("*.yml")), directory=directory)


def test_the_lab_configuration_is_valid(etc: Path):
    checked = promtool("check", "config", "prometheus.yml", directory=etc / "prometheus")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    # promtool only warns of a rule file that is missing: it must have found ours.
    assert "1 rule files found" in checked.stdout


@pytest.mark.parametrize("timing", [configuration.PRODUCTION_TIMING, configuration.LAB_TIMING])
@pytest.mark.parametrize("databases", [False, True])
def test_the_rules_are_valid(tmp_path: Path, timing: dict[str, Any], databases: bool):
    (tmp_path / "rules.yml").write_text(configuration.rules(timing, databases=databases))
    checked = promtool("check", "rules", "rules.yml", directory=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_case_holds(tmp_path: Path):
    tested = run_cases(tmp_path, parsed_rules())
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(
    ("missing", "expression", "broken_case", "exempt"),
    [
        ("firing", "vector(0) > 1", r"alertname: (\w+),[^\n]*\n\s*exp:\[\n", set()),
        # The watchdog always fires: that is what it is for.
        ("quiet", "vector(1)", r"alertname: (\w+),[^\n]*\n\s*exp:\[\],", {"Watchdog"}),
    ],
    ids=["firing", "quiet"],
)
def test_each_alert_has_a_firing_and_a_quiet_case(
    tmp_path: Path, missing: str, expression: str, broken_case: str, exempt: set[str]
):
    """Alerts that never fire, or always do, must each break a case; where none breaks, that case is missing."""
    rules = parsed_rules()
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "alert" in rule:
                rule["expr"] = expression
                rule.pop("for", None)
    tested = run_cases(tmp_path, rules)
    without = set(alerts()) - set(re.findall(broken_case, tested.stdout + tested.stderr)) - exempt
    assert not without, f"no {missing} case: {sorted(without)}"


def test_the_manuals_own_error_rule_fails_the_cases(tmp_path: Path):
    """Errors per second compared with 0.05: silent at low traffic, loud at 0.02%."""
    rules = parsed_rules()
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == "HighErrorRate":
                rule["expr"] = 'rate(http_requests_total{status=~"5.."}[5m]) > 0.05'
    assert run_cases(tmp_path, rules).returncode != 0


def test_every_alert_says_how_severe_where_and_what():
    for group in parsed_rules()["groups"]:
        for rule in group["rules"]:
            if "alert" not in rule:
                continue
            assert rule["labels"]["severity"] in {"critical", "warning", "none"}, rule["alert"]
            assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]


def test_the_manuals_numbers():
    rules = {rule["alert"]: rule for group in parsed_rules()["groups"] for rule in group["rules"] if "alert" in rule}
    assert (rules["ApplicationDown"]["for"], rules["ApplicationDown"]["labels"]["severity"]) == ("1m", "critical")
    assert (rules["HighErrorRate"]["for"], rules["HighErrorRate"]["labels"]["severity"]) == ("2m", "critical")
    assert (rules["HighResponseTime"]["for"], rules["HighResponseTime"]["labels"]["severity"]) == ("5m", "warning")
    assert (rules["DatabaseConnectionsHigh"]["for"], rules["DatabaseConnectionsHigh"]["expr"][-4:]) == ("5m", "> 80")
    assert "> 0.05" in rules["HighErrorRate"]["expr"]
    assert "> 2\n" in rules["HighResponseTime"]["expr"]


HAPROXY = """
global
  stats socket {directory}/admin.sock mode 600 level admin
defaults
  mode http
  timeout client 5s
  timeout connect 1s
  timeout server 5s
frontend fe
  bind unix@{directory}/fe.sock
  default_backend bk_blue
frontend metrics
  bind unix@{directory}/metrics.sock
  http-request use-service prometheus-exporter
backend bk_blue
  option httpchk
  server app1 127.0.0.1:9 check inter 100ms
"""


@pytest.fixture
def haproxy_metrics(tmp_path: Path) -> Iterator[str]:
    """Metrics of a real HAProxy whose only server is dead, after one request."""
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(directory=tmp_path))
    process = subprocess.Popen(["/usr/sbin/haproxy", "-f", "haproxy.cfg", "-db"], cwd=tmp_path)
    try:
        waiting.until(lambda: (tmp_path / "metrics.sock").exists(), "HAProxy listens")
        waiting.until(lambda: 'backend_active_servers{proxy="bk_blue"} 0' in ask(tmp_path, "metrics"), "app1 is down")
        assert "503" in ask(tmp_path, "fe")
        yield ask(tmp_path, "metrics")
    finally:
        process.terminate()
        process.wait(scaled(10))


def ask(directory: Path, name: str) -> str:
    command = ["curl", "-s", "-i", "--unix-socket", str(directory / f"{name}.sock"), "http://lb/metrics"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_haproxy_has_the_metrics_and_labels_that_the_rules_ask_for(haproxy_metrics: str):
    rules = configuration.rules(configuration.PRODUCTION_TIMING)
    asked = set(re.findall(r"haproxy_\w+", "\n".join(line for line in rules.splitlines() if "#" not in line)))
    assert len(asked) >= 3
    for metric in asked:
        assert re.search(rf"^{metric}\{{.*proxy=\"bk_blue\"", haproxy_metrics, re.MULTILINE), metric
    # A request that found no server is an error of its backend: ApplicationDown's live traffic rests on it.
    assert 'haproxy_backend_http_responses_total{proxy="bk_blue",code="5xx"} 1' in haproxy_metrics
    assert 'haproxy_server_status{proxy="bk_blue",server="app1",state="UP"} 0' in haproxy_metrics
