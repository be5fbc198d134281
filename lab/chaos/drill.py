"""A scenario while it is played: what it may use, and what it has found wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab import faults
from lab.chaos.run import POLL_SECONDS, MissedStateError, Run
from lab.chaos.scenario import BACKUP, DEPLOY, ROLLBACK, Scenario
from lab.checker import Verdict
from lab.fault_register import Fault
from lab.load.generator import LoadGenerator
from lab.waiting import until

if TYPE_CHECKING:
    from lab.chaos.stage import Stage

# Short, and long enough for a bad release to be seen where one is awaited.
BAKE_SECONDS = 8
# The old color must not be stopped before the scenario is judged; its stop is taken off the schedule afterwards.
KEEP_WARM_SECONDS = 3600
# Resets may reach a client a moment after the load balancer is back.
WINDOW_MARGIN_SECONDS = 2.0


@dataclass
class Window:
    """A time in which a load balancer was broken on purpose, in epoch seconds."""

    load_balancer: str
    began_at: float
    ended_at: float


class Drill:
    """One play of a scenario.

    Args:
        stage: The lab and Airflow.
        scenario: What is played.
        before: What was live, by the checker.
        load: The users, unless the scenario has none.
    """

    def __init__(self, stage: Stage, scenario: Scenario, before: Verdict, load: LoadGenerator | None) -> None:
        self.stage, self.scenario, self.before, self.load = stage, scenario, before, load
        self.runs: list[Run] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.windows: list[Window] = []
        self.has_passed = False
        """Whether the release had passed before the fault struck: then no second bake is awaited."""
        self.stack = ExitStack()
        """What must be undone when the scenario has ended, however it ended."""

    @property
    def old_color(self) -> str:
        """The color that was live."""
        return str(self.before.live_color)

    @property
    def new_color(self) -> str:
        """The color that was idle."""
        return "green" if self.old_color == "blue" else "blue"

    @property
    def run(self) -> Run:
        """The deployment under test: the first that was started."""
        return self.runs[0]

    def deploy(self, version: str | None = None, **conf: Any) -> Run:
        """Start a deployment as the operator, of the next good version unless one is named."""
        values = {"bake_seconds": BAKE_SECONDS, "keep_warm_seconds": KEEP_WARM_SECONDS, **conf}
        return self.start(DEPLOY, version or self.stage.next_version(self.before), **values)

    def start(self, dag_id: str, version: str, **conf: Any) -> Run:
        """Start a deployment of either strategy as the operator."""
        values = {"version": version, "force_reason": "fault test: deployed on purpose", **conf}
        return self.follows(dag_id, self.stage.client.trigger(dag_id, values, note=f"fault test {self.scenario.name}"))

    def roll_back(self, **conf: Any) -> Run:
        """Start a rollback as the operator."""
        values = {"reason": f"fault test {self.scenario.name}", **conf}
        return self.follows(ROLLBACK, self.stage.client.trigger(ROLLBACK, values))

    def back_up(self, backup_type: str = "incr") -> Run:
        """Start a backup as the operator; only what changed since the last one, unless another type is named."""
        return self.follows(BACKUP, self.stage.client.trigger(BACKUP, {"type": backup_type}))

    def follows(self, dag_id: str, run_id: str) -> Run:
        """A run that was started just now, to be judged with the others."""
        run = Run(self.stage.client, self.stage.airflow.supervision, self.stage.records, dag_id, run_id)
        self.runs.append(run)
        return run

    def expect(self, is_so: object, text: str) -> None:
        """Note a problem unless something is so."""
        if not is_so:
            self.problems.append(text)

    def note(self, text: str) -> None:
        """Add to the result's detail."""
        self.notes.append(text)

    def ends(self, run: Run, *states: str) -> str:
        """Wait until a run has ended; it must be in one of the states."""
        state = run.until_ended()
        outcome, detail = run.outcome()
        self.expect(state in states, f"the run ended as {state}, not {' or '.join(states)}: {run.errors() or detail}")
        self.note(f"run {state}, outcome {outcome or 'none'}")
        return state

    def until(
        self,
        condition: Callable[[], bool],
        what: str,
        timeout_seconds: float,
        progress: Callable[[], object] | None = None,
    ) -> None:
        """Wait for a state of the estate, as long as the progress changes. Raises MissedStateError."""
        until(condition, what, timeout_seconds, progress=progress, poll_seconds=POLL_SECONDS, error=MissedStateError)

    def breaks(self, fault: Fault) -> Fault:
        """Remember a fault, to be mended at the end if it is not mended before."""

        def mend() -> None:
            if any(each.id == fault.id for each in faults.active()):
                faults.mend(fault)

        self.stack.callback(mend)
        return fault

    @contextmanager
    def window(self, load_balancer: str) -> Iterator[Window]:
        """A time in which requests to this load balancer may fail; open until the end of the block."""
        window = Window(load_balancer, time.time(), float("inf"))
        self.windows.append(window)
        try:
            yield window
        finally:
            window.ended_at = time.time() + WINDOW_MARGIN_SECONDS
