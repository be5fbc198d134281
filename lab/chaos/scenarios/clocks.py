"""The clock of a database host is wrong: what ages, points in time and removals say then."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from lab import estate, faults, postgres
from lab.chaos import kept
from lab.chaos.drill import Drill
from lab.chaos.scenario import BACKUP, RESTORE_POINT, Scenario
from lab.chaos.scenarios.backup_kills import scenario
from lab.chaos.scenarios.points import answer, judge_past, restore, written
from lab.chaos.scenarios.switches import OTHER
from lab.fault_register import Fault

# Object storage refuses requests that are signed more than 15 minutes beside its own clock (AWS, RequestTimeTooSkewed).
_AHEAD_SECONDS: Final = 60
_APPROVE: Final = "Exchange the database"


def _skewed(drill: Drill, host: str, seconds: int) -> Fault:
    fault = drill.breaks(faults.skew_clock(host, seconds))
    old = postgres.primary_of_production()
    drill.until(lambda: postgres.streams(old, f"{OTHER[old]}_slot"), "the replica follows again", 60)
    return fault


def _right_again(drill: Drill, fault: Fault) -> None:
    faults.mend(fault, wait_for_health=False)
    estate.check_health()
    # pgBackRest makes no set whose label is earlier than the last one's.
    over = time.time() + _AHEAD_SECONDS
    drill.until(lambda: time.time() > over, "the right clock has passed what the wrong one has shown", 90)


def _primary_ahead(drill: Drill) -> None:
    before = kept.ready(drill)
    primary = postgres.primary_of_production()
    fault = _skewed(drill, primary, _AHEAD_SECONDS)
    run = drill.back_up()
    drill.ends(run, "success")
    drill.expect(kept.told(drill, run.run_id, f"the clock of {primary} is"), "people were not told of the clock")
    outcome = drill.stage.client.xcom(BACKUP, run.run_id, "finish_backup")
    seconds = outcome["rpo_seconds"]
    # By the primary's own clock: what waits does not look a minute older, or younger.
    drill.expect(seconds is not None and 0 <= seconds <= 60, f"the recovery point is {seconds} s")
    made = [label for label in kept.sets() if label not in before]
    drill.expect(len(made) == 1, f"{len(made)} sets are new")
    drill.note(f"recovery point {seconds:.0f} s with the primary's clock {_AHEAD_SECONDS} s ahead")
    _right_again(drill, fault)
    kept.judge(drill, before, new=1)


def _point_with_the_primary_ahead(drill: Drill) -> None:
    """The moment is given by the server's clock, as its rows have it: the right commits come back."""
    kept.ready(drill)
    primary = postgres.primary_of_production()
    fault = _skewed(drill, primary, _AHEAD_SECONDS)
    with written(drill, ahead_seconds=_AHEAD_SECONDS) as (writer, past):
        run = restore(drill, past.text)
        body = answer(drill, run, _APPROVE)
        drill.expect(f"the clock of {primary} is" in body, f"the question does not speak of the clock: {body[:400]}")
        drill.ends(run, "success")
        judge_past(drill, writer, past)
    _right_again(drill, fault)


def _replica_ahead(drill: Drill) -> None:
    """What is removed is removed by the replica's clock: nothing is, while that is wrong."""
    before, host = kept.ready(drill), kept.replica()
    fault = _skewed(drill, host, _AHEAD_SECONDS)
    run = drill.back_up()
    drill.ends(run, "success")
    words = f"no set was removed: the clock of {host} is"
    drill.expect(any(words in line for line in run.timeline()), f"it is not said that nothing was removed: {words}")
    drill.expect(kept.told(drill, run.run_id, f"the clock of {host} is"), "people were not told of the clock")
    _right_again(drill, fault)
    kept.judge(drill, before, new=1)


def _scenario(name: str, fault: str, expects: str, play: Callable[[Drill], None], procedure: str) -> Scenario:
    return scenario(f"clock-{name}", fault, expects, play, procedure)


SCENARIOS: Final = (
    _scenario(
        "of-the-primary",
        f"the primary's clock is {_AHEAD_SECONDS} s ahead during a backup",
        "people are told, the recovery point is by that clock alone and right, the set is whole",
        _primary_ahead,
        BACKUP,
    ),
    _scenario(
        "of-the-primary-in-a-restore",
        f"the primary's clock is {_AHEAD_SECONDS} s ahead, and the database goes back to a moment by it",
        "the question says so; every commit from before the moment is there and none from after it",
        _point_with_the_primary_ahead,
        RESTORE_POINT,
    ),
    _scenario(
        "of-the-replica",
        f"the clock of the replica, which removes old sets, is {_AHEAD_SECONDS} s ahead",
        "people are told, no set is removed, the new one is whole",
        _replica_ahead,
        BACKUP,
    ),
)
