"""What a bake is judged by: metrics that are absent, no users at all, kept connections, requests that take long."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from typing import Final

from lab import addresses, faults, paths
from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.moments import BAKING, SWITCH_TASK
from lab.chaos.run import Run
from lab.chaos.scenario import Live, Scenario

# Design, rule 2: people know of missing data within this time.
TOLD_WITHIN_SECONDS: Final = 60.0
_HOLD_TIMEOUT_SECONDS: Final = 45
_HOSTNAME: Final = "app.sebenza.com"


def _metrics_absent_and_back(drill: Drill) -> None:
    run = drill.deploy(bake_seconds=10)
    BAKING.reach(drill, run)
    fault = drill.breaks(faults.metrics_absent())
    _expect_told(drill, run, time.monotonic())
    drill.expect(run.phase() == "baking", f"traffic did not stay: phase {run.phase()!r}")
    faults.mend(fault)
    drill.ends(run, "success")


def _metrics_absent(drill: Drill) -> None:
    drill.stack.enter_context(changed_policy(hold_timeout_seconds=_HOLD_TIMEOUT_SECONDS))
    run = drill.deploy(bake_seconds=10)
    BAKING.reach(drill, run)
    drill.breaks(faults.metrics_absent())
    _expect_told(drill, run, time.monotonic())
    drill.ends(run, "failed")
    drill.expect(run.phase() == "undone", f"the switch was not undone: phase {run.phase()!r}")


def _expect_told(drill: Drill, run: Run, since: float) -> None:
    """People must know within a minute that the run holds traffic, on Slack and by a page."""
    for channel in ("slack", "pagerduty"):

        def told(channel: str = channel) -> bool:
            messages = drill.stage.mailbox.messages(channel)  # type: ignore[arg-type]
            return any(run.run_id in str(each) and "holds traffic" in str(each) for each in messages)

        drill.until(told, f"{channel} tells that the run holds traffic", TOLD_WITHIN_SECONDS)
        drill.note(f"{channel} told after {time.monotonic() - since:.0f} s")


def _no_users(drill: Drill) -> None:
    drill.stack.enter_context(changed_policy(hold_timeout_seconds=_HOLD_TIMEOUT_SECONDS))
    run = drill.deploy(bake_seconds=30)
    run.until_phase("baking")
    _expect_told(drill, run, time.monotonic())
    drill.ends(run, "failed")
    drill.expect(run.phase() == "undone", f"the switch was not undone: phase {run.phase()!r}")


def _kept_connections(drill: Drill) -> None:
    """A second group of users that never opens a new connection while it has one."""
    from lab.load.generator import LoadGenerator

    balancers = {name: (addresses.address(name), addresses.HTTPS_PORT) for name in ("lb1", "lb2")}
    rate = drill.stage.own_rate
    load = LoadGenerator(load_balancers=balancers, ca_file=paths.CA_FILE, rate=rate, fresh_share=0.0, connections=16)
    with load:
        run = drill.deploy()
        drill.ends(run, "success")
        report = load.stop()
    switched_at = float(run.progress()["switched_at"])
    drill.expect(report.failed == 0, f"{report.failed} requests on kept connections failed")
    stuck = report.requests_to(drill.old_color, since=switched_at)
    drill.expect(stuck == 0, f"{stuck} requests on kept connections went to {drill.old_color} after the switch")
    drill.expect(report.requests_to(drill.new_color) > 0, f"no kept connection reached {drill.new_color}")
    drill.note(f"{report.requests} requests on kept connections, none to {drill.old_color} after the switch")


class SlowUpload:
    """A user with a slow line: a request that is under way until its rest is sent.

    Args:
        load_balancer: Where it goes.
    """

    def __init__(self, load_balancer: str) -> None:
        context = ssl.create_default_context(cafile=str(paths.CA_FILE))
        endpoint = (addresses.address(load_balancer), addresses.HTTPS_PORT)
        plain = socket.create_connection(endpoint, timeout=60)
        self._connection = context.wrap_socket(plain, server_hostname=_HOSTNAME)
        body = json.dumps({"name": "Test Project"}).encode() + b" " * 500
        head = (
            f"POST /api/v1/projects HTTP/1.1\r\nHost: {_HOSTNAME}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer load-1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._connection.sendall(head.encode() + body[:-10])
        self._rest = body[-10:]

    def finish(self) -> tuple[int, str]:
        """Send the rest; the answer's status and color. Raises OSError or HTTPException when there is none."""
        with self._connection:
            self._connection.sendall(self._rest)
            response = http.client.HTTPResponse(self._connection)
            response.begin()
            response.read()
            return response.status, str(response.getheader("X-Color"))


def _start_uploads(drill: Drill, run: Run) -> list[SlowUpload]:
    run.until_started(SWITCH_TASK)
    uploads = [SlowUpload(name) for name in ("lb1", "lb2", "lb1", "lb2")]
    drill.expect(
        set(drill.stage.colors().values()) == {drill.old_color}, "the switch was over before the uploads began"
    )
    return uploads


def _finish_uploads(drill: Drill, uploads: list[SlowUpload]) -> None:
    for upload in uploads:
        try:
            answer = upload.finish()
        except (OSError, http.client.HTTPException) as error:
            drill.expect(False, f"a request in flight was lost: {type(error).__name__} {error}")
            continue
        drill.expect(answer[0] in (200, 201) and answer[1] == drill.old_color, f"a request in flight got {answer}")
    drill.note(f"{len(uploads)} requests in flight over the switch were answered by {drill.old_color}")


def _in_flight(drill: Drill) -> None:
    run = drill.deploy(bake_seconds=5)
    uploads = _start_uploads(drill, run)
    run.until_done("drain_old_color", "deferred")
    _finish_uploads(drill, uploads)
    drill.ends(run, "success")
    drill.expect(any("is drained" in text for text in run.timeline()), "the drain did not wait for the sessions' end")


def _in_flight_too_long(drill: Drill) -> None:
    drill.stack.enter_context(changed_policy(drain_timeout_seconds=5))
    run = drill.deploy(bake_seconds=5)
    uploads = _start_uploads(drill, run)
    drill.ends(run, "success")
    drill.expect(any("still has sessions" in text for text in run.timeline()), "long sessions were not reported")
    _finish_uploads(drill, uploads)


SCENARIOS: Final = (
    Scenario(
        name="metrics-absent-and-back",
        fault="Prometheus is killed in the bake, and comes back after people were told",
        expects="traffic stays, people are told within 60 s, the bake goes on, and the run succeeds",
        play=_metrics_absent_and_back,
        live=Live.NEW,
    ),
    Scenario(
        name="metrics-absent",
        fault="Prometheus is killed in the bake and stays dead",
        expects="traffic stays, people are told within 60 s, after the hold time it is switched back, the run fails",
        play=_metrics_absent,
        live=Live.OLD,
    ),
    Scenario(
        name="no-users",
        fault="nobody sends a request during the whole deployment",
        expects="no request is no good news: people are told within 60 s, it is switched back, the run fails",
        play=_no_users,
        live=Live.OLD,
        has_load=False,
    ),
    Scenario(
        name="kept-connections",
        fault="users keep their connections open over the switch and never open others",
        expects="every request after the switch goes to the new release, none fails",
        play=_kept_connections,
        live=Live.NEW,
    ),
    Scenario(
        name="slow-requests-in-flight",
        fault="uploads that began before the switch are under way until the drain",
        expects="the drain waits for them, the old color answers them, the run succeeds",
        play=_in_flight,
        live=Live.NEW,
    ),
    Scenario(
        name="slow-requests-past-the-drain",
        fault="uploads that began before the switch are under way until after the drain's deadline",
        expects="they are reported, the old color keeps running and answers them, the run succeeds",
        play=_in_flight_too_long,
        live=Live.NEW,
    ),
)
