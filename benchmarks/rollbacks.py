"""How long customers stay on a release that must go: our rollback beside the manual's, warm and cold."""

from __future__ import annotations

import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks.deployments import (
    APPLICATION_HOSTS,
    DAG_ID,
    GOOD_BAKE_SECONDS,
    KEEP_WARM_SECONDS,
    other_good_version,
    prebuild,
    script_environment,
)
from benchmarks.order import ENVIRONMENT
from benchmarks.rows import Row
from benchmarks.session import LOAD_BALANCERS, BenchmarkError, Session, under_load
from lab import application_hosts, haproxy, paths
from lab.accounts import LOGIN_USER, own
from lab.configuration import color_backend
from lab.hosts import ENVIRONMENTS
from lab.load.report import OK, LoadReport
from lab.waiting import scaled

ROLLBACK: Final = f"rollback.{ENVIRONMENT}"
STOP: Final = f"stop_idle_color.{ENVIRONMENT}"
SHELL_SCRIPT: Final = Path(__file__).with_name("rollback.sh")
BACKUP: Final = "/var/tmp/release-backup.tar.gz"
REPEATS: Final = 3
# What clients notice late is counted too: this long after the last step.
AFTER_SECONDS: Final = 2.0


@dataclass(frozen=True)
class WayBack:
    """One rollback: the seconds until the old release answered all requests, and well; and how many requests failed."""

    seconds: float
    failed: int


def measure(session: Session) -> list[Row]:
    """The rows of `rollback.*`. Production ends on a good release."""
    prebuild(session, "v1.1.0")
    prebuild(session, "v1.2.0")
    warm = [_by_dag(session, number, is_warm=True) for number in range(1, REPEATS + 1)]
    cold = [_by_dag(session, number, is_warm=False) for number in range(1, REPEATS + 1)]
    script = [_by_shell(session, number) for number in range(1, REPEATS + 1)]
    baseline = round(median(each.seconds for each in script), 2)
    failed, failed_by_script = (sum(each.failed for each in ways) for ways in ([*warm, *cold], script))
    return [
        Row("rollback.warm_seconds", round(median(each.seconds for each in warm), 2), baseline, "s", REPEATS),
        Row("rollback.cold_seconds", round(median(each.seconds for each in cold), 2), baseline, "s", REPEATS),
        # As many of ours as of the script's: half of the value's.
        Row(
            "rollback.failed_requests",
            failed,
            2 * failed_by_script,
            f"requests in {2 * REPEATS} rollbacks",
            2 * REPEATS,
        ),
    ]


def seconds_to_release(report: LoadReport, release_id: str, decided_at: float) -> float:
    """From the decision to the sending of the last request that the release did not answer well.

    Raises BenchmarkError when there is none after the decision, or the release has answered none.
    """
    others = [
        each.reached_at
        for each in report.all_requests
        if each.reached_at >= decided_at and (each.release != release_id or each.outcome != OK)
    ]
    back = [each for each in report.all_requests if each.release == release_id and each.outcome == OK]
    if not others or not back:
        raise BenchmarkError(
            f"{len(others)} requests went elsewhere and {len(back)} to {release_id}: nothing to measure"
        )
    return max(others) - decided_at


def _by_dag(session: Session, number: int, *, is_warm: bool) -> WayBack:
    """Deploy another release, and take it back through Airflow. The decision is the request to Airflow's API."""
    before = session.live()
    _deploy_another(session)
    if not is_warm:
        session.run(STOP, {"color": str(before.live_color)})
    conf: dict[str, object] = {"reason": "benchmark of the way back", "mark_bad": False}
    with under_load() as load:
        decided_at = load.mark("decision")
        session.run(ROLLBACK, conf)
        report = load.stop()
    return _told(
        session, f"{'warm' if is_warm else 'cold'} {number}/{REPEATS}", report, str(before.release), decided_at
    )


def _by_shell(session: Session, number: int) -> WayBack:
    """Deploy another release, and take it back as the manual does: stop, restore, start."""
    old = str(session.live().release)
    _deploy_another(session)
    color = str(session.live().live_color)
    for host in APPLICATION_HOSTS:
        _back_up(host, old)
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-") as directory, under_load() as load:
        decided_at = load.mark("decision")
        command = [str(SHELL_SCRIPT), color, old, BACKUP]
        environment = script_environment(Path(directory))
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=scaled(180)
        )
        if ended.returncode != 0:
            raise BenchmarkError(f"{SHELL_SCRIPT.name} failed: {ended.stderr.strip()}\n{ended.stdout.strip()}")
        for balancer in LOAD_BALANCERS:
            haproxy.await_servers(balancer, color_backend(color))
        # The time itself is awaited: what clients notice late.
        time.sleep(AFTER_SECONDS)
        report = load.stop()
    application_hosts.make_live(ENVIRONMENTS[ENVIRONMENT], color, old)
    for host in APPLICATION_HOSTS:
        (paths.host_files(host) / BACKUP.lstrip("/")).unlink()
    return _told(session, f"by the manual {number}/{REPEATS}", report, old, decided_at)


def _deploy_another(session: Session) -> None:
    conf: dict[str, object] = {
        "version": other_good_version(session),
        "bake_seconds": GOOD_BAKE_SECONDS,
        "keep_warm_seconds": KEEP_WARM_SECONDS,
        "force_reason": "benchmark",
    }
    # A bake without users is no good news.
    with under_load():
        session.run(DAG_ID, conf)


def _back_up(host: str, release_id: str) -> None:
    archive = paths.host_files(host) / BACKUP.lstrip("/")
    archive.parent.mkdir(parents=True, exist_ok=True)
    directory = application_hosts.release_dir(host, release_id)
    subprocess.run(["tar", "-czf", str(archive), "-C", str(directory), "."], check=True)
    own(archive, LOGIN_USER)


def _told(session: Session, name: str, report: LoadReport, release_id: str, decided_at: float) -> WayBack:
    found = WayBack(seconds_to_release(report, release_id, decided_at), report.failed)
    session.say(f"rollback {name}: {found.seconds:.1f} s, {report.requests} requests, {report.failed} failed")
    return found
