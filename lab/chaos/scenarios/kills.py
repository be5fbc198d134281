"""The worker, and the task process alone, killed between every two steps, inside the switch and inside the bake."""

from __future__ import annotations

import time
from typing import Final

from lab.chaos.drill import Drill
from lab.chaos.moments import ALL, BAKING, Moment
from lab.chaos.run import Run
from lab.chaos.scenario import Live, Scenario

# What the issue asks for: a killed bake is judging again within this time.
JUDGING_AGAIN_SECONDS: Final = 20.0
WHO: Final = {
    "task": "the task process alone is killed (SIGKILL to its group)",
    "worker": "the worker and its task are killed (SIGKILL to both)",
}


def _killed(who: str, moment: Moment) -> Scenario:
    def play(drill: Drill) -> None:
        run = drill.deploy(bake_seconds=12 if moment is BAKING else 6)
        moment.reach(drill, run)
        killed_at = kill(run, moment.task_id, who)
        drill.note(f"killed {moment.words}")
        # The other load balancer may go on once its command's sender is dead.
        drill.stack.close()
        drill.ends(run, "success")
        if moment is BAKING:
            _measure_blind_time(drill, run, killed_at)

    return Scenario(
        name=f"{who}-killed-{moment.name}",
        fault=f"{WHO[who]} {moment.words}",
        expects="Airflow starts the task again; it goes on from where the load balancers are, and the run succeeds",
        play=play,
        live=Live.NEW,
    )


def kill(run: Run, task_id: str, who: str) -> float:
    """Kill a task's process or its worker; returns when (epoch seconds)."""
    processes = run.processes(task_id, timeout_seconds=2)
    killed_at = time.time()
    if who == "task":
        processes.kill_task()
    else:
        processes.kill_worker()
    return killed_at


def _measure_blind_time(drill: Drill, run: Run, killed_at: float) -> None:
    judged_at = run.first_judged_after(killed_at)
    if judged_at is None:
        drill.expect(False, "the bake was not judged again after the kill")
        return
    blind_seconds = judged_at - killed_at
    drill.note(f"judging again {blind_seconds:.1f} s after the kill")
    drill.expect(
        blind_seconds <= JUDGING_AGAIN_SECONDS,
        f"judging again only {blind_seconds:.1f} s after the kill, more than {JUDGING_AGAIN_SECONDS:g} s",
    )


SCENARIOS: Final = tuple(_killed(who, moment) for who in WHO for moment in ALL)
