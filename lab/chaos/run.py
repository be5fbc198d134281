"""One run of a procedure, as a scenario watches it from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from lab.airflow.client import (
    FINISHED_RUN,
    FINISHED_TASK,
    LOOK_SECONDS,
    AirflowClient,
    AirflowRefusedError,
    TaskInstance,
)
from lab.airflow.processes import NoSuchTaskProcessError, TaskProcesses, task_processes
from lab.airflow.supervision import Supervision
from lab.chaos.records import Records
from lab.waiting import Patience, until

POLL_SECONDS: Final = 0.02
# A run that was killed needs up to 20 s a kill to be found, an environment without data its whole hold time.
END_TIMEOUT_SECONDS: Final = 900.0
STATE_TIMEOUT_SECONDS: Final = 300.0
QUIET_ENDS: Final = 3
REFUSALS: Final = frozenset({"refused", "rejected"})


class MissedStateError(Exception):
    """The state at which something was to be broken did not come, or was over before it was seen."""


class Run:
    """A run of a procedure.

    Args:
        client: Who started it.
        supervision: Where its processes are.
        records: The ledger.
        dag_id: The procedure's DAG.
        run_id: The run.
    """

    def __init__(
        self, client: AirflowClient, supervision: Supervision, records: Records, dag_id: str, run_id: str
    ) -> None:
        self._client, self._supervision, self._records = client, supervision, records
        self.dag_id, self.run_id = dag_id, run_id
        self.state = "running"
        self.failures = 0
        """How often it ended as failed; people must be told so often."""
        self.refusals = 0
        """How often of these it had touched nothing; nobody is paged for them."""

    @property
    def dedup_key(self) -> str:
        """What PagerDuty's messages about it have in common."""
        return f"sebenza-ops/{self.dag_id}/{self.run_id}"

    # --- what it does now

    def progress(self) -> dict[str, Any]:
        """What it has noted in the ledger."""
        return self._records.progress(self.dag_id, self.run_id)

    def phase(self) -> str:
        """How far its traffic has come: "switching", "baking", ...; empty before."""
        return str(self.progress().get("phase") or "")

    def tasks(self) -> dict[str, TaskInstance]:
        """Its tasks by id."""
        return {task.task_id: task for task in self._client.task_instances(self.dag_id, self.run_id)}

    def errors(self) -> str:
        """The errors of its failed tasks."""
        return "; ".join(self._records.errors(self.dag_id, self.run_id))

    def timeline(self) -> list[str]:
        """What it has told about itself."""
        return self._records.timeline(self.dag_id, self.run_id)

    def figures(self) -> list[dict[str, Any]]:
        """Its evidence of before and after."""
        return self._records.figures(self.dag_id, self.run_id)

    def outcome(self) -> tuple[str, str]:
        """The ledger's outcome and its explanation."""
        return self._records.outcome(self.dag_id, self.run_id)

    def first_judged_after(self, moment: float) -> float | None:
        """When its bake judged for the first time after `moment` (epoch seconds)."""
        return next((at for at in self._records.judged_at(self.dag_id, self.run_id) if at > moment), None)

    def processes(self, task_id: str, timeout_seconds: float = 0) -> TaskProcesses:
        """The processes of a running task. Raises NoSuchTaskProcessError."""
        return task_processes(
            self._supervision, self._client, self.dag_id, self.run_id, task_id, timeout_seconds=timeout_seconds
        )

    # --- waiting for a state of it

    def until(self, condition: Callable[[], bool], what: str, timeout_seconds: float = STATE_TIMEOUT_SECONDS) -> None:
        """Wait for a state. Raises MissedStateError when it does not come before the run has ended."""
        next_look = 0.0

        def has_come() -> bool:
            nonlocal next_look
            if condition():
                return True
            now = time.monotonic()
            if now > next_look:
                next_look = now + 1.0
                state = str(self._client.dag_run(self.dag_id, self.run_id)["state"])
                if state in FINISHED_RUN and not condition():
                    raise MissedStateError(f"{what}: the run has ended as {state} before ({self.errors()})")
            return False

        until(
            has_come,
            what,
            timeout_seconds,
            progress=self._work_done,
            look_seconds=LOOK_SECONDS,
            poll_seconds=POLL_SECONDS,
            error=MissedStateError,
        )

    def until_phase(self, *phases: str) -> None:
        """Wait until its traffic is in one of these phases."""
        self.until(lambda: self.phase() in phases, f"phase {' or '.join(phases)}")

    def until_started(self, task_id: str) -> TaskProcesses:
        """Wait until a task has processes, and return them."""
        found: list[TaskProcesses] = []

        def started() -> bool:
            try:
                found.append(self.processes(task_id))
            except (NoSuchTaskProcessError, AirflowRefusedError):
                task = self.tasks().get(task_id)
                if task is not None and task.state in FINISHED_TASK:
                    raise MissedStateError(f"{task_id} runs: it is {task.state} already") from None
                return False
            return True

        self.until(started, f"{task_id} runs")
        return found[0]

    def until_done(self, task_id: str, *states: str) -> str:
        """Wait until a task is in one of the states (default: any final one), and return it."""
        wanted = frozenset(states) or FINISHED_TASK
        self.until(lambda: self._state_of(task_id) in wanted, f"{task_id} is {' or '.join(sorted(wanted))}")
        return str(self._state_of(task_id))

    def until_ended(self, timeout_seconds: float = END_TIMEOUT_SECONDS) -> str:
        """Wait until nothing of it runs any more, teardown included; its state."""
        patience = Patience(f"the end of {self}", timeout_seconds, progress=self._work_done, look_seconds=LOOK_SECONDS)
        quiet = 0
        while quiet < QUIET_ENDS:
            state = str(self._client.dag_run(self.dag_id, self.run_id)["state"])
            busy = [task.task_id for task in self.tasks().values() if task.state not in FINISHED_TASK]
            quiet = 0 if busy or state not in FINISHED_RUN else quiet + 1
            if patience.is_over():
                raise MissedStateError(f"it is {state}, busy: {', '.join(busy) or 'the run'}: {patience.told()}")
            time.sleep(0.3)
        self.state = state
        self.failures += state == "failed"
        self.refusals += state == "failed" and self.outcome()[0] in REFUSALS
        return state

    def _work_done(self) -> str:
        return self._client.work_done(self.dag_id, self.run_id)

    def _state_of(self, task_id: str) -> str | None:
        task = self.tasks().get(task_id)
        return task.state if task is not None else None

    # --- what people do to it

    def mark_failed(self) -> None:
        """Mark the run failed, as the UI's button does."""
        self._client.mark_failed(self.dag_id, self.run_id)

    def clear(self, task_ids: list[str] | None = None) -> list[str]:
        """Clear tasks (all when none is named) with what follows them; the cleared ids."""
        return self._client.clear(self.dag_id, self.run_id, task_ids)

    def __str__(self) -> str:
        return f"{self.dag_id} {self.run_id}"
