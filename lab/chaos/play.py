"""Plays a scenario from order to order, and says how it ended."""

from __future__ import annotations

import time
import traceback
from typing import Final

from lab.airflow.client import AirflowApiError
from lab.chaos.drill import Drill
from lab.chaos.judgement import judge
from lab.chaos.run import MissedStateError
from lab.chaos.scenario import Result, Scenario
from lab.chaos.stage import Stage, StageError
from lab.load.report import LoadReport
from lab.mailbox.client import MailboxError
from lab.waiting import LabError

# A state of a fraction of a second can be over before it is seen; then the scenario says nothing, and is played again.
ATTEMPTS: Final = 2


def play(stage: Stage, scenario: Scenario) -> Result:
    """Prepare, play, judge, tidy up. A lab that can't be brought to order makes the scenario unsafe."""
    began = time.monotonic()
    try:
        problems, notes = _play(stage, scenario)
    except (StageError, LabError, AirflowApiError, OSError) as error:
        problems, notes = [f"not played: {error}"], []
    detail = "; ".join([*problems, *notes, f"{time.monotonic() - began:.0f} s"])
    return Result(scenario.name, scenario.procedure, scenario.fault, "unsafe" if problems else "safe", detail)


def _play(stage: Stage, scenario: Scenario) -> tuple[list[str], list[str]]:
    for attempt in range(1, ATTEMPTS + 1):
        drill, missed = _play_once(stage, scenario)
        if missed is None or attempt == ATTEMPTS:
            break
        stage.say(f"{scenario.name}: {missed}; played again")
    if missed is not None:
        drill.problems.append(f"missed: {missed}")
    return drill.problems, drill.notes


def _play_once(stage: Stage, scenario: Scenario) -> tuple[Drill, str | None]:
    before = stage.prepare(gated=scenario.gated)
    load = stage.load() if scenario.has_load else None
    drill = Drill(stage, scenario, before, load)
    missed = None
    try:
        if load is not None:
            load.start()
        try:
            scenario.play(drill)
        except MissedStateError as error:
            missed = str(error)
        except (AirflowApiError, LabError, MailboxError, OSError, LookupError):
            drill.problems.append(f"the scenario itself broke: {traceback.format_exc(limit=-3)}")
        if missed is None:
            judge(drill, _stop(load))
    finally:
        stage.tidy(drill)
        if load is not None:
            load.__exit__(None, None, None)
    return drill, missed


def _stop(load: object) -> LoadReport | None:
    from lab.load.generator import LoadGenerator

    return load.stop() if isinstance(load, LoadGenerator) else None
