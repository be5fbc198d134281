"""The states at which faults strike: between every two steps of a deployment or a backup, and inside some of them."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from lab import application_hosts, paths
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.run import Run

SWITCH_TASK: Final = "switch_prove_and_bake"
# The order of dags/deployment/deploy_blue_green.py; tests/faults checks that it is the same.
STEPS: Final = (
    "acquire_lease",
    "ensure_release",
    "plan_deployment",
    "deploy_to_idle_color",
    "await_idle_healthy",
    SWITCH_TASK,
    "drain_old_color",
    "record_deployment",
    "stop_later",
    "finish",
)
# The order of dags/backup/backup_database.py; tests/faults checks that it is the same.
BACKUP_STEPS: Final = (
    "plan_backup",
    "back_up",
    "dump_database",
    "verify_backup",
    "finish_backup",
    "release_lease",
)
# These three run side by side.
_BEFORE: Final = {
    "record_deployment": SWITCH_TASK,
    "stop_later": SWITCH_TASK,
    "finish": "all others have ended",
}
FENCE_LOCK: Final = "var/lib/sebenza/fence-production.lock"


@dataclass(frozen=True)
class Moment:
    """A state of a run that can be awaited.

    Args:
        name: For the scenario's name.
        words: For people: "when ...".
        task_id: The task that runs then.
        reach: Waits for it.
    """

    name: str
    words: str
    task_id: str
    reach: Callable[[Drill, Run], None]


def _step(task_id: str, steps: Sequence[str] = STEPS) -> Moment:
    index = steps.index(task_id)
    before = f", right after {_BEFORE.get(task_id, steps[index - 1])}" if index else ", the first of the run"
    before += " has succeeded" if index and task_id != "finish" else ""
    return Moment(
        task_id.replace("_", "-"), f"as {task_id} starts{before}", task_id, lambda drill, run: _start(run, task_id)
    )


def _start(run: Run, task_id: str) -> None:
    run.until_started(task_id)


def _reach_between(drill: Drill, run: Run) -> None:
    """lb1 has switched and lb2 has not: its fence is locked, as by another program that changes it just then."""
    run.until_started(SWITCH_TASK)
    drill.stack.enter_context(hold_fence("lb2"))

    def between() -> bool:
        return application_hosts.live_color("lb1") == drill.new_color

    run.until(between, f"lb1 sends to {drill.new_color}")
    drill.expect(application_hosts.live_color("lb2") == drill.old_color, "lb2 had switched before the fault struck")


@contextmanager
def hold_fence(host: str) -> Iterator[None]:
    """Hold the lock under which a host's fence is checked: whoever changes the host waits."""
    with (paths.host_root(host) / FENCE_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _reach_bake(drill: Drill, run: Run) -> None:
    run.until_phase("baking")
    first = float(run.progress().get("last_judged_at") or 0)
    run.until(lambda: float(run.progress().get("last_judged_at") or 0) > first, "the bake judges")


STARTS: Final = tuple(_step(task_id) for task_id in STEPS)
SWITCHING: Final = Moment(
    "inside-the-switch",
    "inside the switch (the run's phase is `switching`)",
    SWITCH_TASK,
    lambda drill, run: run.until_phase("switching"),
)
BETWEEN: Final = Moment(
    "between-the-load-balancers", "after lb1 has switched and before lb2 does", SWITCH_TASK, _reach_between
)
BAKING: Final = Moment("inside-the-bake", "inside the bake, after a judgement", SWITCH_TASK, _reach_bake)
INSIDE: Final = (SWITCHING, BETWEEN, BAKING)
ALL: Final = (*STARTS, *INSIDE)

BACKUP_STARTS: Final = tuple(_step(task_id, BACKUP_STEPS) for task_id in BACKUP_STEPS)
BACKING_UP: Final = Moment(
    "inside-the-backup",
    "while pgBackRest works on the replica",
    "back_up",
    lambda drill, run: run.until(lambda: kept.works("backup"), "pgBackRest backs up"),
)
DUMPING: Final = Moment(
    "inside-the-dump",
    "while pg_dump works on the replica",
    "dump_database",
    lambda drill, run: run.until(lambda: kept.works("--snapshot"), "pg_dump dumps"),
)
BACKUP_ALL: Final = (*BACKUP_STARTS, BACKING_UP, DUMPING)
