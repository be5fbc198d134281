"""How long customers suffer from a bad release: the bake's rollback beside the usual canary loop's."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from statistics import median
from typing import Final

from benchmarks.deployments import deploy, deploy_by_shell, prebuild
from benchmarks.order import ENVIRONMENT
from benchmarks.rows import Row
from benchmarks.session import LOAD_BALANCERS, BenchmarkError, Session
from lab import application_hosts, haproxy, paths
from lab.addresses import PROMETHEUS_PORT, endpoint
from lab.configuration import MAP_FILE, MAP_KEY, color_backend
from lab.hosts import ENVIRONMENTS
from lab.load.report import OK, LoadReport
from lab.waiting import scaled
from sebenza_ops.ledger import Outcome

LATE_5XX: Final = "v1.3.2-late-5xx"
SLOW: Final = "v1.3.3-slow"
REPEATS: Final = {LATE_5XX: 3, SLOW: 2}
# Must not end before the release turns bad (5 s after its first request) and is found out.
BAD_BAKE_SECONDS: Final = 60
# The manual's trigger: a response that takes longer is a bad one.
SLOW_SECONDS: Final = 5.0

# Flagger's canary analysis with its own example's numbers (https://docs.flagger.app/usage/metrics): every minute, over
# one minute, 99 % of the requests succeed and the 99th percentile is at most 0.5 s. Its `threshold` of failed checks is
# 1 here, the least that there is; its examples have 2 to 10.
PEER_INTERVAL_SECONDS: Final = 60.0
PEER_SUCCESS_RATIO: Final = 0.99
PEER_P99_SECONDS: Final = 0.5
PEER_MAXIMUM_CHECKS: Final = 3


def measure_late_5xx(session: Session) -> list[Row]:
    """The row of the release whose requests begin to fail."""
    return [_measure(session, "blue_green.bad_release_to_safe_seconds", LATE_5XX)]


def measure_slow(session: Session) -> list[Row]:
    """The row of the release that becomes slow."""
    return [_measure(session, "blue_green.slow_release_to_safe_seconds", SLOW)]


def _measure(session: Session, name: str, version: str) -> Row:
    release = prebuild(session, version)
    seconds = []
    for number in range(1, REPEATS[version] + 1):
        done = deploy(session, release, bake_seconds=BAD_BAKE_SECONDS, expected="failed")
        if done.record.outcome is not Outcome.ROLLED_BACK:
            raise BenchmarkError(
                f"{version} was to be rolled back, but the run {done.run_id} says: {done.record.detail}"
            )
        seconds.append(seconds_to_safe(done.report, release.release_id))
        session.say(f"{version} {number}/{REPEATS[version]}: {seconds[-1]:.1f} s, {done.report.failed} requests failed")
    baseline = _by_peer(session, version)
    session.say(f"{version} with a check every {PEER_INTERVAL_SECONDS:.0f} s: {baseline:.1f} s")
    return Row(name, round(median(seconds), 2), round(baseline, 2), "s", len(seconds))


def seconds_to_safe(report: LoadReport, release_id: str) -> float:
    """From the sending of the first request that the release answered badly to that of the last it answered at all.

    Raises BenchmarkError when none was answered badly.
    """
    answered = [request for request in report.all_requests if request.release == release_id]
    bad = [each for each in answered if each.outcome != OK or each.latency_seconds > SLOW_SECONDS]
    if not bad:
        raise BenchmarkError(f"{release_id} answered all {len(answered)} requests well: nothing to measure")
    return max(each.reached_at for each in answered) - min(each.started_at for each in bad)


def _by_peer(session: Session, version: str) -> float:
    """Deploy the release by shell script, and take it back as a canary loop does."""
    release = prebuild(session, version)
    old = str(session.live().live_color)
    old_release = str(session.live().release)
    new = "green" if old == "blue" else "blue"

    def watch(steps: dict[str, float]) -> None:
        for check in range(1, PEER_MAXIMUM_CHECKS + 1):
            # The interval itself is what is measured.
            time.sleep(max(0.0, steps["switch"] + check * PEER_INTERVAL_SECONDS - time.time()))
            if not _passes(new):
                _switch_at_once(old)
                return
        raise BenchmarkError(f"{version} passed {PEER_MAXIMUM_CHECKS} checks of a loop as Flagger's")

    try:
        done = deploy_by_shell(release, watch)
    finally:
        _switch_at_once(old)
        application_hosts.make_live(ENVIRONMENTS[ENVIRONMENT], old, old_release)
    return seconds_to_safe(done.report, release.release_id)


def _passes(color: str) -> bool:
    here = f'environment="{ENVIRONMENT}",color="{color}"'
    answers = f"sum(rate(haproxy_backend_http_responses_total{{{here}}}[1m]))"
    errors = f'sum(rate(haproxy_backend_http_responses_total{{{here},code="5xx"}}[1m]))'
    buckets = f"sum by (le) (rate(http_request_duration_seconds_bucket{{{here}}}[1m]))"
    success_ratio = 1 - _query(f"{errors} / {answers}")
    return success_ratio >= PEER_SUCCESS_RATIO and _query(f"histogram_quantile(0.99, {buckets})") <= PEER_P99_SECONDS


def _query(expression: str) -> float:
    address = endpoint("monitoring", PROMETHEUS_PORT)
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    with urllib.request.urlopen(url, timeout=scaled(5)) as response:
        result = json.load(response)["data"]["result"]
    if len(result) != 1:
        raise BenchmarkError(f"Prometheus gave {len(result)} series for {expression}")
    return float(result[0]["value"][1])


def _switch_at_once(color: str) -> None:
    for host in LOAD_BALANCERS:
        map_file = paths.host_root(host) / MAP_FILE
        haproxy.runtime_command(host, f"set map {map_file} {MAP_KEY} {color_backend(color)}")
