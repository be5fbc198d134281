"""Moving traffic: failed and misdirected requests, and the time that a deployment takes, each beside the usual way."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

from benchmarks.deployments import (
    GOOD_BAKE_SECONDS,
    DagDeployment,
    ShellDeployment,
    deploy,
    deploy_by_shell,
    other_good_version,
    prebuild,
)
from benchmarks.order import ENVIRONMENT
from benchmarks.rows import Row
from benchmarks.session import LOAD_BALANCERS, Session, under_load
from lab import application_hosts, faults, haproxy, paths
from lab.accounts import LOGIN_USER, write_as
from lab.configuration import MAP_FILE, color_backend, map_line
from lab.hosts import ENVIRONMENTS
from lab.load.report import LoadReport

REPEATS: Final = 3
GOOD_VERSIONS: Final = ("v1.1.0", "v1.2.0")
# Clients notice a cut connection with their next request: this long after the last command.
AFTER_SECONDS: Final = 3.0


@dataclass(frozen=True)
class ColorChange:
    """What the load saw of one change of color by a reload or restart."""

    failed: int
    requests_to_old_color: int


def measure(session: Session) -> list[Row]:
    """The rows of `blue_green.*` that are about good releases."""
    releases = {version: prebuild(session, version) for version in GOOD_VERSIONS}
    by_dag: list[DagDeployment] = []
    by_shell: list[ShellDeployment] = []
    for number in range(1, REPEATS + 1):
        by_dag.append(deploy(session, releases[other_good_version(session)], bake_seconds=GOOD_BAKE_SECONDS))
        session.say(
            f"deployment {number}/{REPEATS} through Airflow: {_shown(by_dag[-1].report)}, "
            f"{by_dag[-1].wall_seconds:.1f} s without the bake"
        )
        by_shell.append(deploy_by_shell(releases[other_good_version(session)]))
        session.say(
            f"deployment {number}/{REPEATS} by shell script: {_shown(by_shell[-1].report)}, "
            f"{by_shell[-1].wall_seconds:.1f} s"
        )
    reloads = [change_color(session, "reload", faults.reload_haproxy) for _ in range(REPEATS)]
    restarts = [change_color(session, "restart", faults.restart_haproxy) for _ in range(REPEATS)]
    failed = sum(each.report.failed for each in by_dag)
    misdirected = sum(each.requests_to_old_color for each in by_dag)
    count = f"requests in {REPEATS} changes"
    wall, script = (median(each.wall_seconds for each in ways) for ways in (by_dag, by_shell))
    return [
        Row("blue_green.failed_requests", failed, sum(each.failed for each in reloads), count, REPEATS),
        Row("blue_green.failed_requests.vs_restart", failed, sum(each.failed for each in restarts), count, REPEATS),
        Row(
            "blue_green.requests_to_old_color",
            misdirected,
            sum(each.requests_to_old_color for each in reloads),
            count,
            REPEATS,
        ),
        Row(
            "blue_green.requests_to_old_color.vs_restart",
            misdirected,
            sum(each.requests_to_old_color for each in restarts),
            count,
            REPEATS,
        ),
        Row("blue_green.dag_wall_seconds", round(wall, 2), round(script, 2), "s", REPEATS),
    ]


def change_color(session: Session, name: str, apply: Callable[[str], None]) -> ColorChange:
    """Change the color as one does without a runtime API: edit the file, then reload or restart, one after the other.

    Requests to the old color count from the moment that the last HAProxy said it runs with the new file.
    """
    live = str(session.live().live_color)
    target = "green" if live == "blue" else "blue"
    release = application_hosts.version_answer(ENVIRONMENTS[ENVIRONMENT].application_hosts[0], target)
    for host in LOAD_BALANCERS:
        haproxy.await_servers(host, color_backend(target))
    with under_load() as load:
        for host in LOAD_BALANCERS:
            write_as(paths.host_files(host) / MAP_FILE, map_line(target), LOGIN_USER)
            apply(host)
        changed_at = load.mark(name)
        # The time itself is awaited: what happens to connections that were open.
        time.sleep(AFTER_SECONDS)
        report = load.stop()
    application_hosts.make_live(ENVIRONMENTS[ENVIRONMENT], target, str((release or {}).get("release_id")))
    change = ColorChange(report.failed, report.requests_to(live, since=changed_at))
    session.say(
        f"color changed by {name}: {_shown(report)}, {change.requests_to_old_color} to the old color afterwards"
    )
    return change


def _shown(report: LoadReport) -> str:
    return f"{report.requests} requests, {report.failed} failed"
