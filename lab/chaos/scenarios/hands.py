"""People in the UI: the run marked failed, or cleared, at any step; an old run cleared after a later change."""

from __future__ import annotations

from typing import Final

from lab.chaos.drill import Drill
from lab.chaos.moments import ALL, STARTS, STEPS, SWITCH_TASK, Moment
from lab.chaos.scenario import Live, Scenario

# From here on the release has passed: a run that ends by hand is not taken back any more.
_PASSED: Final = STEPS[STEPS.index(SWITCH_TASK) + 1 :]


def _marked_failed(moment: Moment) -> Scenario:
    passed = moment.task_id in _PASSED

    def play(drill: Drill) -> None:
        run = drill.deploy(bake_seconds=20)
        moment.reach(drill, run)
        run.mark_failed()
        drill.note(f"marked failed {moment.words}")
        drill.stack.close()
        # Airflow lets a teardown that runs already go on, and calls the run what the teardown makes of it.
        ended = moment.task_id == STEPS[-1]
        drill.ends(run, "failed", *(["success"] if ended else []))
        run.failures = 1

    return Scenario(
        name=f"marked-failed-{moment.name}",
        fault=f"the run is marked failed by hand {moment.words}",
        expects="a release that has not passed is taken back, the run is failed, people are told once",
        play=play,
        live=Live.NEW if passed else Live.OLD,
    )


def _cleared(moment: Moment) -> Scenario:
    def play(drill: Drill) -> None:
        run = drill.deploy(bake_seconds=8)
        moment.reach(drill, run)
        drill.has_passed = moment.task_id in _PASSED
        run.clear()
        drill.note(f"cleared {moment.words}")
        drill.stack.close()
        drill.ends(run, "success")

    return Scenario(
        name=f"cleared-{moment.name}",
        fault=f"the whole run is cleared by hand {moment.words}",
        expects="the run begins anew, watches what has not passed for the whole bake, and succeeds",
        play=play,
        live=Live.NEW,
    )


def _superseded(drill: Drill) -> None:
    first = drill.deploy(bake_seconds=5)
    drill.ends(first, "success")
    second = drill.deploy(_version_of_old(drill), bake_seconds=5)
    drill.ends(second, "success")
    first.clear()
    drill.note("the first run was cleared after the second had succeeded")
    drill.ends(first, "failed")
    drill.expect(
        "superseded" in first.errors().lower() or "later" in first.errors(), f"no word of why: {first.errors()}"
    )


def _version_of_old(drill: Drill) -> str:
    return str(drill.before.release).rpartition("-")[0]


def _rerun_resolves(drill: Drill) -> None:
    run = drill.deploy()
    STARTS[2].reach(drill, run)
    run.mark_failed()
    drill.ends(run, "failed")
    mailbox = drill.stage.mailbox
    drill.until(lambda: bool(mailbox.incidents(run.dedup_key)), "PagerDuty has an incident of the failed run", 40)
    run.clear()
    drill.ends(run, "success")

    def resolved() -> bool:
        return [incident["status"] for incident in mailbox.incidents(run.dedup_key)] == ["resolved"]

    drill.until(resolved, "the incident is resolved", 40)
    drill.note("paged once, resolved by the rerun")


SCENARIOS: Final = (
    *(_marked_failed(moment) for moment in ALL),
    *(_cleared(moment) for moment in ALL),
    Scenario(
        name="superseded-run-cleared",
        fault="a run is cleared after a later deployment has succeeded",
        expects="its first task refuses it: the later deployment stays live",
        play=_superseded,
        # The second deployment brought the first one's predecessor back, to the color where it had been.
        live=Live.OLD,
    ),
    Scenario(
        name="page-is-resolved-by-a-rerun",
        fault="a run is marked failed by hand, and cleared afterwards",
        expects="PagerDuty has one incident, which the rerun's success resolves",
        play=_rerun_resolves,
        live=Live.NEW,
    ),
)
