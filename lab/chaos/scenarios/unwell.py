"""An environment that is unwell before anything is changed: not the change's fault, and the cure must get through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lab import addresses, checker, faults
from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.run import Run
from lab.chaos.scenario import DEPLOY, IN_WINDOWS, STANDARD, Excuse, Live, Scenario
from lab.chaos.stage import ENVIRONMENT, LOAD_BALANCERS
from lab.load.report import Request

HALF_FAILS: Final = "v1.3.6-half-fails"
UNWELL: Final = "unwell before the change"
CURE: Final = "this release no longer asks for discounts"
# Beyond the manual's 5 s with one query.
_DELAY_SECONDS: Final = 6.0
# Over before the alert about errors fires, which would take it back.
_SHORT_BAKE_SECONDS: Final = 5


def _of_the_live_release(request: Request, drill: Drill) -> bool:
    return request.outcome == "server_error" and request.release.startswith(f"{HALF_FAILS}-")


HALF_OF_THEM: Final = Excuse("5xx answers of the release that fails half of its requests", _of_the_live_release)


def _make_unwell(drill: Drill) -> None:
    """Let a release pass that fails half of its requests, as if it had begun to later."""
    with changed_policy(error_ratio_threshold=1):
        run = drill.deploy(HALF_FAILS, bake_seconds=_SHORT_BAKE_SECONDS, keep_warm_seconds=0)
        drill.ends(run, "success")


def _expect_refused(drill: Drill, run: Run) -> None:
    drill.ends(run, "failed")
    outcome, detail = run.outcome()
    drill.expect(outcome == "refused" and UNWELL in detail, f"the outcome is {outcome!r}: {detail}")
    drill.expect(UNWELL in run.errors(), f"it is not said that the environment is unwell: {run.errors()}")
    drill.expect(not run.phase(), f"traffic was touched: phase {run.phase()!r}")


def _expect_release(drill: Drill, version: str) -> None:
    found = checker.check(ENVIRONMENT)
    drill.expect(str(found.release).startswith(f"{version}-"), f"{found.release} is live, not {version}")


def _expect_both_figures(drill: Drill, run: Run, before: str, after: str) -> None:
    figures = {row["moment"]: row for row in run.figures()}
    for moment, version in (("before", before), ("after", after)):
        row = figures.get(moment)
        drill.expect(
            row is not None and str(row["release_id"]).startswith(f"{version}-") and row["answers"],
            f"the evidence has no figures of {version} {moment} the change: {row}",
        )
    if "before" in figures:
        drill.note(f"before: {figures['before']['errors']} of {figures['before']['answers']} failed")


def _cured_by(dag_id: str, **conf: Any) -> Callable[[Drill], None]:
    def play(drill: Drill) -> None:
        _make_unwell(drill)
        good = drill.stage.next_version(drill.before)
        refused = drill.start(dag_id, good, **conf)
        _expect_refused(drill, refused)
        _expect_release(drill, HALF_FAILS)
        cure = drill.start(dag_id, good, cure_reason=CURE, **conf)
        drill.ends(cure, "success")
        drill.expect(any(CURE in text for text in cure.timeline()), "the reason is not in the run's timeline")
        _expect_both_figures(drill, cure, HALF_FAILS, good)
        _expect_release(drill, good)

    return play


def _slow_database(drill: Drill) -> None:
    live = str(drill.before.release).rpartition("-")[0]
    with drill.window(LOAD_BALANCERS[0]), drill.window(LOAD_BALANCERS[1]):
        fault = drill.breaks(faults.slow("dbendpoint", addresses.POSTGRES_PORT, _DELAY_SECONDS))
        drill.until(lambda: bool(checker.check(ENVIRONMENT).problems), "the database is seen to be slow", 60)
        run = drill.deploy()
        _expect_refused(drill, run)
        faults.mend(fault)
        drill.until(lambda: not checker.check(ENVIRONMENT).problems, "production is well again", 60)
    _expect_release(drill, live)
    blamed = [text for text in run.timeline() if "marked bad" in text]
    drill.expect(not blamed, f"the release is blamed for the database: {blamed}")


def _rolled_back(drill: Drill) -> None:
    _make_unwell(drill)
    good = str(drill.before.release).rpartition("-")[0]
    run = drill.roll_back()
    drill.ends(run, "success")
    _expect_both_figures(drill, run, HALF_FAILS, good)


SCENARIOS: Final = (
    Scenario(
        name="unwell-live-release",
        fault="half of the live release's requests fail before a good release is deployed",
        expects="the switch is refused and says why; with a reason that this release is the cure it succeeds, and its "
        "evidence shows before and after",
        play=_cured_by(DEPLOY, bake_seconds=8, keep_warm_seconds=0),
        # The good release comes to the color that was live at first.
        live=Live.OLD,
        excuse=HALF_OF_THEM,
    ),
    Scenario(
        name="unwell-standard-deployment",
        fault="half of the live release's requests fail before a standard deployment",
        expects="the roll-out is refused before the first host; with a reason it succeeds, host by host",
        play=_cured_by(STANDARD, watch_seconds=6, bake_seconds=6),
        live=Live.NEW,
        excuse=HALF_OF_THEM,
        procedure=STANDARD,
    ),
    Scenario(
        name="unwell-database",
        fault="every answer of the database comes six seconds late before a good release is deployed",
        expects="nothing is switched, the refusal says that the environment is unwell, no release is marked bad",
        play=_slow_database,
        live=Live.OLD,
        excuse=IN_WINDOWS,
    ),
    Scenario(
        name="unwell-rollback",
        fault="half of the live release's requests fail when it is rolled back",
        expects="a rollback is never refused for that; its evidence shows before and after",
        play=_rolled_back,
        live=Live.OLD,
        excuse=HALF_OF_THEM,
    ),
)
