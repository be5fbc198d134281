"""Two changes at once: refused at once, or after a lease has expired under a run that hangs and wakes up later."""

from __future__ import annotations

import time
from typing import Final

from lab.chaos.drill import Drill
from lab.chaos.inventory_file import changed_policy
from lab.chaos.moments import BAKING, SWITCH_TASK
from lab.chaos.run import Run
from lab.chaos.scenario import DEPLOY, Live, Scenario
from lab.chaos.stage import ENVIRONMENT

# Airflow takes a second or two to start a task; a refusal that waits behind another run takes minutes.
AT_ONCE_SECONDS: Final = 20.0
_SHORT_LEASE_SECONDS: Final = 10
# A zombie that wakes up acts within its judging interval of a second.
_ZOMBIE_SECONDS: Final = 8.0


def _two_at_once(drill: Drill) -> None:
    first = drill.deploy(bake_seconds=15)
    first.until_phase("baking")
    asked_at = time.monotonic()
    second = drill.deploy("v1.2.0")
    second.until_done("acquire_lease", "failed")
    seconds = time.monotonic() - asked_at
    drill.note(f"refused after {seconds:.1f} s")
    drill.expect(seconds < AT_ONCE_SECONDS, f"the refusal took {seconds:.0f} s")
    _expect_refusal(drill, second, first)
    drill.ends(second, "failed")
    drill.ends(first, "success")


def _expect_refusal(drill: Drill, refused: Run, holder: Run) -> None:
    said = refused.errors()
    for what, part in {
        "the holder": holder.run_id,
        "its procedure": DEPLOY,
        "since when": "since",
        "for what": "for: ",
        "until when": "ends by",
    }.items():
        drill.expect(part in said, f"the refusal does not say {what}: {said}")


def _started_together(drill: Drill) -> None:
    runs = [drill.deploy("v1.1.0" if "v1.1.0" not in str(drill.before.release) else "v1.0.0"), drill.deploy("v1.2.0")]
    states = [run.until_ended() for run in runs]
    drill.expect(sorted(states) == ["failed", "success"], f"not exactly one of two went through: {states}")
    winner, loser = runs if states[0] == "success" else reversed(runs)
    _expect_refusal(drill, loser, winner)
    # The judge looks at the first run of the list.
    drill.runs = [winner, loser]


def _attempt_wakes_up(drill: Drill) -> None:
    """Airflow gives up the attempt that hangs and starts another one; then the first wakes up."""
    run = drill.deploy(bake_seconds=12)
    BAKING.reach(drill, run)
    paused = run.processes(SWITCH_TASK)
    paused.pause()
    drill.stack.callback(_resume, paused)
    drill.note("first attempt paused in the bake")
    before = run.tasks()[SWITCH_TASK].try_number
    run.until(lambda: run.tasks()[SWITCH_TASK].try_number > before and _runs(run), "a second attempt runs")
    _resume(paused)
    drill.note("first attempt woke up beside the second")
    drill.ends(run, "success")


def _runs(run: Run) -> bool:
    return run.tasks()[SWITCH_TASK].state == "running"


def _resume(paused: object) -> None:
    import contextlib

    with contextlib.suppress(ProcessLookupError):
        paused.resume()  # type: ignore[attr-defined]


def _zombie_after_another_run(drill: Drill) -> None:
    """The lease ends under a run that hangs, another run changes the environment, then the first wakes up."""
    with changed_policy(lease_ttl_seconds=_SHORT_LEASE_SECONDS):
        first = drill.deploy("v1.1.0" if "v1.1.0" not in str(drill.before.release) else "v1.0.0", bake_seconds=40)
        BAKING.reach(drill, first)
        paused = first.processes(SWITCH_TASK)
        paused.pause()
        drill.stack.callback(_resume, paused)
        records = drill.stage.records
        drill.until(lambda: records.open_lease(ENVIRONMENT) is None, "the lease has expired", 30)
    second = drill.deploy("v1.2.0", bake_seconds=25)
    second.until_phase("baking")
    lease = records.open_lease(ENVIRONMENT)
    drill.expect(lease and lease.run_id == second.run_id, f"the second run does not hold the lease: {lease}")
    colors = drill.stage.colors()
    # Its worker stays asleep for now: the zombie itself must be stopped by the hosts, not by Airflow.
    import os
    import signal

    os.killpg(paused.task_pid, signal.SIGCONT)
    drill.note("the first run woke up in the second one's bake")
    give_up_at = time.monotonic() + _ZOMBIE_SECONDS
    while time.monotonic() < give_up_at:
        now = drill.stage.colors()
        if now != colors:
            drill.expect(False, f"the zombie moved traffic: {colors} became {now}")
            break
        time.sleep(0.05)
    _resume(paused)
    drill.ends(second, "success")
    drill.ends(first, "failed")
    drill.expect("fenced off" in first.errors(), f"no host has refused the zombie: {first.errors()}")
    # The judge asks for the release that the second run has brought.
    drill.runs = [second, first]


SCENARIOS: Final = (
    Scenario(
        name="two-deployments-at-once",
        fault="a second deployment is started in the bake of the first",
        expects="its first task refuses it at once: who holds the lease, since when, for what, until when",
        play=_two_at_once,
        live=Live.NEW,
    ),
    Scenario(
        name="two-deployments-started-together",
        fault="two deployments are started in the same moment",
        expects="exactly one goes through, the other is refused with the holder's name",
        play=_started_together,
        live=Live.NEW,
    ),
    Scenario(
        name="paused-attempt-wakes-up",
        fault="the bake hangs (SIGSTOP), Airflow starts it anew, and the first attempt wakes up beside the second",
        expects="the first attempt's fencing token is refused everywhere; the run succeeds",
        play=_attempt_wakes_up,
        live=Live.NEW,
    ),
    Scenario(
        name="paused-run-wakes-up-after-another",
        fault="the bake hangs (SIGSTOP) until its lease has expired, another run deploys, and the first wakes up",
        expects="the late zombie changes nothing; the second run succeeds, the first fails",
        play=_zombie_after_another_run,
        live=Live.EITHER,
    ),
)
