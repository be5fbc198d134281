"""Standard deployments: failed requests and the time of the run, each beside the usual way."""

from __future__ import annotations

from statistics import median
from typing import Final

from benchmarks.deployments import (
    GOOD_BAKE_SECONDS,
    ROLLING_SCRIPT,
    DagDeployment,
    ShellDeployment,
    deploy_by_shell,
    other_good_version,
    prebuild,
    roll_out,
)
from benchmarks.rows import Row
from benchmarks.session import Session
from lab.load.report import LoadReport
from sebenza_ops.deployment.release import Release

REPEATS: Final = 2
GOOD_VERSIONS: Final = ("v1.1.0", "v1.2.0")


def measure(session: Session) -> list[Row]:
    """The rows of `rolling.*`."""
    releases = {version: prebuild(session, version) for version in GOOD_VERSIONS}
    by_dag: list[DagDeployment] = []
    by_shell: list[ShellDeployment] = []
    for number in range(1, REPEATS + 1):
        by_dag.append(roll_out(session, releases[other_good_version(session)], bake_seconds=GOOD_BAKE_SECONDS))
        session.say(
            f"rollout {number}/{REPEATS} through Airflow: {_shown(by_dag[-1].report)}, "
            f"{by_dag[-1].wall_seconds:.1f} s without watching"
        )
        by_shell.append(deploy_by_shell(releases[other_good_version(session)], script=ROLLING_SCRIPT))
        session.say(
            f"rollout {number}/{REPEATS} by shell script: {_shown(by_shell[-1].report)}, "
            f"{by_shell[-1].wall_seconds:.1f} s"
        )
    reloads = [_by_hand(session, releases[other_good_version(session)], "pm2-reload") for _ in range(REPEATS)]
    stops = [_by_hand(session, releases[other_good_version(session)], "stop-start") for _ in range(REPEATS)]
    failed = sum(each.report.failed for each in by_dag)
    count = f"requests in {REPEATS} rollouts"
    wall, script = (median(each.wall_seconds for each in ways) for ways in (by_dag, by_shell))
    return [
        Row("rolling.failed_requests", failed, sum(reloads), count, REPEATS),
        Row("rolling.failed_requests.vs_stop_start", failed, sum(stops), count, REPEATS),
        Row("rolling.dag_wall_seconds", round(wall, 2), round(script, 2), "s", REPEATS),
    ]


def _by_hand(session: Session, release: Release, way: str) -> int:
    """Failed requests of a change without draining."""
    report = deploy_by_shell(release, script=ROLLING_SCRIPT, way=way).report
    session.say(f"changed by {way}: {_shown(report)}")
    return report.failed


def _shown(report: LoadReport) -> str:
    return f"{report.requests} requests, {report.failed} failed"
