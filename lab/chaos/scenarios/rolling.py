"""Standard deployments: kills, lost hosts and bad releases in the middle of a rollout. The live color never changes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Final

from lab import checker, faults, haproxy, paths
from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.run import Run
from lab.chaos.scenario import STANDARD, Excuse, Live, Scenario
from lab.chaos.scenarios.kills import kill
from lab.chaos.stage import ENVIRONMENT, LOAD_BALANCERS
from lab.load.report import Request

TASK: Final = "roll_out"
LATE_5XX: Final = "v1.3.2-late-5xx"
# Good releases are healthy in about three seconds; a rehearsal must not wait a minute for a bad one.
_HEALTH_TIMEOUT_SECONDS: Final = 15
_WATCH_SECONDS: Final = 6


def _of_the_bad_release(request: Request, drill: Drill) -> bool:
    return request.outcome == "server_error" and request.release.startswith(f"{LATE_5XX}-")


def _while_the_host_died(request: Request, drill: Drill) -> bool:
    # One that was sent shortly before the end may find out ten seconds after it.
    return any(
        window.began_at <= request.finished_at and request.started_at <= window.ended_at for window in drill.windows
    )


BAD_RELEASE: Final = Excuse("5xx answers of the bad release itself", _of_the_bad_release)
DYING_HOST: Final = Excuse("sent to the killed host before its health checks failed", _while_the_host_died)


def _roll_out(drill: Drill, version: str | None = None, **conf: Any) -> Run:
    values = {"watch_seconds": _WATCH_SECONDS, "bake_seconds": 6, **conf}
    return drill.start(STANDARD, version or drill.stage.next_version(drill.before), **values)


def _until(run: Run, key: str, host: str) -> None:
    """Wait until the rollout has noted a host: drained or about to be ("touched"), started anew, back ("changed")."""
    run.until(lambda: host in (run.progress().get(key) or ()), f"{host} is {key}")


def _expect_release(drill: Drill, version: str) -> None:
    found = checker.check(ENVIRONMENT)
    drill.expect(
        str(found.release).startswith(f"{version}-"), f"{found.release} is what users get in the end, not {version}"
    )


def _expect_old(drill: Drill) -> None:
    _expect_release(drill, str(drill.before.release).rpartition("-")[0])


def _killed(who: str, key: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        run = _roll_out(drill)
        _until(run, key, "app1")
        kill(run, TASK, who)
        drill.ends(run, "success")
        _expect_release(drill, drill.stage.next_version(drill.before))

    return play


def _marked_failed(drill: Drill) -> None:
    run = _roll_out(drill)
    _until(run, "changed", "app1")
    run.mark_failed()
    drill.ends(run, "failed")
    _expect_old(drill)


def _fails_late(drill: Drill) -> None:
    run = _roll_out(drill, LATE_5XX, watch_seconds=60)
    drill.ends(run, "failed")
    drill.expect("app2" not in run.progress().get("touched", ()), "the second host got the bad release too")
    _expect_old(drill)
    again = _roll_out(drill, LATE_5XX, force_reason="")
    drill.ends(again, "failed")
    drill.expect("marked bad" in again.errors(), f"the bad release was not refused: {again.errors()}")


def _second_host_fails(drill: Drill) -> None:
    drill.stack.enter_context(changed_policy(health_timeout_seconds=_HEALTH_TIMEOUT_SECONDS))
    version = drill.stage.next_version(drill.before)
    run = _roll_out(drill, version)
    _until(run, "changed", "app1")
    installed = list((paths.host_files("app2") / "srv/sebenza/releases").glob(f"{version}-*"))
    drill.expect(installed, f"{version} is not installed on app2")
    for directory in installed:
        (directory / "dist/server.js").write_text("process.exit(1)\n")
        drill.stack.callback(shutil.rmtree, directory, ignore_errors=True)
    drill.ends(run, "failed")
    drill.expect(run.phase() == "undone", f"the rollout was not undone: phase {run.phase()!r}")
    _expect_old(drill)


def _changed_host_lost(drill: Drill) -> None:
    """The host that is being changed can't be reached: it stays out of rotation until it is back."""
    run = _roll_out(drill)
    _until(run, "restarted", "app1")
    fault = drill.breaks(faults.cut("app1", "ssh", reset=True))
    drill.ends(run, "failed")
    drill.expect("NOT all hosts are back" in run.errors(), f"it is not said that app1 is lost: {run.errors()}")
    for name in LOAD_BALANCERS:
        found = haproxy.servers(name, f"bk_{drill.old_color}")["app1"]
        drill.expect(found.startswith(("DRAIN", "DOWN")), f"{name} has app1 in rotation: {found}")
    faults.mend(fault, wait_for_health=False)
    run.clear()
    drill.ends(run, "failed")
    drill.expect(run.phase() == "undone", f"the way back did not go on: phase {run.phase()!r}")
    _expect_old(drill)


def _other_host_dies(drill: Drill) -> None:
    """The only other host dies while the changed one is watched: the changed one must not be taken out then."""
    run = _roll_out(drill, watch_seconds=60)
    _until(run, "changed", "app1")
    with drill.window("lb1"):
        fault = drill.breaks(faults.kill("app2", drill.old_color))
        run.until(lambda: run.phase() == "undoing", "the rollout stops")
    drill.ends(run, "failed")
    drill.expect("would be in rotation" in run.errors(), f"the minimum is not named: {run.errors()}")
    faults.mend(fault, wait_for_health=False)
    drill.until(lambda: haproxy.servers("lb1", f"bk_{drill.old_color}")["app2"].startswith("UP"), "app2 is back", 60)
    run.clear()
    drill.ends(run, "failed")
    _expect_old(drill)


def _balancer_cut(drill: Drill) -> None:
    run = _roll_out(drill)
    _until(run, "restarted", "app1")
    fault = drill.breaks(faults.cut("lb2", "ssh", reset=True))
    drill.ends(run, "failed")
    faults.mend(fault, wait_for_health=False)
    run.clear()
    drill.ends(run, "failed", "success")
    _expect_old(drill)


def _reloaded(drill: Drill) -> None:
    run = _roll_out(drill)
    _until(run, "restarted", "app1")
    with drill.window("lb1"):
        faults.reload_haproxy("lb1")
        _until(run, "changed", "app1")
    drill.ends(run, "success")


_BACK: Final = "the rollout stops, the hosts that had the release go back to the one before, the run fails"

SCENARIOS: Final = (
    *(
        Scenario(
            name=f"rolling-{who}-killed-with-app1-{key}",
            fault=f"{what} when app1 {words}",
            expects="Airflow starts the task again, it goes on with the host that it was at, and the run succeeds",
            play=_killed(who, key),
            live=Live.OLD,
            procedure=STANDARD,
        )
        for who, what in (
            ("task", "the task process alone is killed (SIGKILL to its group)"),
            ("worker", "the worker and its task are killed (SIGKILL to both)"),
        )
        for key, words in (
            ("touched", "is being drained"),
            ("restarted", "is being started anew"),
            ("changed", "is back in rotation and watched"),
        )
    ),
    Scenario(
        name="rolling-marked-failed",
        fault="the run is marked failed by hand while the first host is watched",
        expects=_BACK,
        play=_marked_failed,
        live=Live.OLD,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-release-fails-late",
        fault="8 % of the release's answers are 5xx from five seconds after its start on",
        expects=f"{_BACK}; the second host never got it, it is marked bad, and refused when it comes again",
        play=_fails_late,
        live=Live.OLD,
        excuse=BAD_RELEASE,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-second-host-fails",
        fault="the release does not start on app2, after app1 has it and passes",
        expects=_BACK,
        play=_second_host_fails,
        live=Live.OLD,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-changed-host-lost",
        fault="SSH to app1 is cut while it is being started anew; it comes back after the run has failed",
        expects="app1 stays out of rotation and is named; cleared, the run brings it back to the release before",
        play=_changed_host_lost,
        live=Live.OLD,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-other-host-dies",
        fault="the application on app2 is killed for good while app1 is watched; it comes back when the run has failed",
        expects="app1 stays in rotation, as the last one; cleared, the run brings it back to the release before",
        play=_other_host_dies,
        live=Live.OLD,
        excuse=DYING_HOST,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-lb2-ssh-cut",
        fault="SSH to lb2 is cut while app1 is drained; it comes back after the run has failed",
        expects=f"{_BACK}, and names lb2; cleared, it brings everything into order",
        play=_balancer_cut,
        live=Live.OLD,
        procedure=STANDARD,
    ),
    Scenario(
        name="rolling-lb1-reloaded",
        fault="HAProxy on lb1 is reloaded, and forgets what is drained, while app1 is being started anew",
        expects="app1 is drained there again, and the run succeeds",
        play=_reloaded,
        live=Live.OLD,
        excuse=Excuse("on lb1, while it had forgotten the drain", _while_the_host_died),
        procedure=STANDARD,
    ),
)
