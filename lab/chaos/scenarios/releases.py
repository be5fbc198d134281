"""Bad releases, and an idle color that dies before the switch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lab import faults
from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.moments import SWITCH_TASK
from lab.chaos.scenario import BAD_RELEASE, NO_EXCUSE, Live, Scenario
from lab.chaos.stage import APPLICATION_HOSTS

# Good releases are healthy in about three seconds; a rehearsal must not wait a minute for a bad one.
_HEALTH_TIMEOUT_SECONDS: Final = 15


def _never_healthy(version: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        drill.stack.enter_context(changed_policy(health_timeout_seconds=_HEALTH_TIMEOUT_SECONDS))
        run = drill.deploy(version)
        drill.ends(run, "failed")
        drill.expect(not run.phase(), "traffic was touched")

    return play


def _taken_back(version: str) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        run = drill.deploy(version, bake_seconds=60)
        drill.ends(run, "failed")
        drill.expect(run.phase() == "undone", f"the switch was not undone: phase {run.phase()!r}")
        again = drill.deploy(version, force_reason="")
        drill.ends(again, "failed")
        drill.expect("marked bad" in again.errors(), f"the bad release was not refused: {again.errors()}")

    return play


def _idle_pool_dead(drill: Drill) -> None:
    run = drill.deploy()
    run.until_started(SWITCH_TASK)
    for host in APPLICATION_HOSTS:
        drill.breaks(faults.kill(host, drill.new_color))
    drill.ends(run, "failed")


def _half_idle_pool_dead(drill: Drill) -> None:
    run = drill.deploy()
    run.until_started(SWITCH_TASK)
    drill.breaks(faults.kill("app2", drill.new_color))
    drill.ends(run, "failed")


def _old_color_dies(drill: Drill) -> None:
    run = drill.deploy(bake_seconds=12)
    run.until_phase("baking")
    for host in APPLICATION_HOSTS:
        drill.breaks(faults.kill(host, drill.old_color))
    drill.ends(run, "success")


def _no_way_back(drill: Drill) -> None:
    run = drill.deploy("v1.3.2-late-5xx", bake_seconds=60)
    run.until_phase("baking")
    for host in APPLICATION_HOSTS:
        drill.breaks(faults.kill(host, drill.old_color))
    drill.ends(run, "failed")
    drill.expect("STAYS" in run.errors(), f"it is not said that traffic stays: {run.errors()}")


_NOT_SWITCHED: Final = "the idle color never becomes healthy with this release: nothing is switched, the run fails"

SCENARIOS: Final = (
    Scenario(
        name="release-crashes-at-start",
        fault="the release ends at once when it is started, again and again",
        expects=_NOT_SWITCHED,
        play=_never_healthy("v1.3.0-crash-at-start"),
        live=Live.OLD,
    ),
    Scenario(
        name="release-never-ready",
        fault="the release starts and never listens, while PM2 says `online`",
        expects=_NOT_SWITCHED,
        play=_never_healthy("v1.3.1-never-ready"),
        live=Live.OLD,
    ),
    Scenario(
        name="release-is-another",
        fault="the release is healthy and says that it is another one",
        expects=_NOT_SWITCHED,
        play=_never_healthy("v1.3.4-wrong-release"),
        live=Live.OLD,
    ),
    Scenario(
        name="release-fails-late",
        fault="8 % of the release's answers are 5xx from five seconds after the switch on",
        expects="it is taken back, marked bad, and refused when it comes again",
        play=_taken_back("v1.3.2-late-5xx"),
        live=Live.OLD,
        excuse=BAD_RELEASE,
    ),
    Scenario(
        name="release-is-slow",
        fault="the release's 95th percentile is over five seconds from five seconds after the switch on",
        expects="it is taken back, marked bad, and refused when it comes again",
        play=_taken_back("v1.3.3-slow"),
        live=Live.OLD,
        excuse=NO_EXCUSE,
    ),
    Scenario(
        name="release-fails-slowly",
        fault="12 % of the release's requests are answered 500 after eight seconds, when others begin",
        expects="it is taken back, marked bad, and refused when it comes again",
        play=_taken_back("v1.3.7-fails-slowly"),
        live=Live.OLD,
        excuse=BAD_RELEASE,
    ),
    Scenario(
        name="idle-pool-dead",
        fault="all processes of the idle color are killed for good as the switch task starts",
        expects="nothing is switched, the run fails",
        play=_idle_pool_dead,
        live=Live.OLD,
    ),
    Scenario(
        name="idle-pool-half-dead",
        fault="the idle color's processes on app2 are killed for good as the switch task starts",
        expects="nothing is switched, the run fails",
        play=_half_idle_pool_dead,
        live=Live.OLD,
    ),
    Scenario(
        name="old-color-dies-in-the-bake",
        fault="all processes of the old color are killed for good in the bake",
        expects="the new release is judged by what it does itself; the run succeeds",
        play=_old_color_dies,
        live=Live.NEW,
    ),
    Scenario(
        name="old-color-dies-and-the-new-fails",
        fault="all processes of the old color are killed for good in the bake of a release that fails late",
        expects="traffic stays, because there is no way back, and that is said loudly; the run fails",
        play=_no_way_back,
        live=Live.NEW,
        excuse=BAD_RELEASE,
        tolerates=(
            ("its marker says", "application hosts are marked when a release has passed; this one has not"),
            ("more than one release", "the bad release answers with its own 5xx"),
            ("a request through it", "the bad release answers with its own 5xx"),
        ),
    ),
)
