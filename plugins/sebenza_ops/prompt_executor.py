"""LocalExecutor that hears at once when a task has ended, and lets the scheduler rest while there is nothing to do.

The scheduler looks for work, and when there was none, sleeps for `[scheduler] scheduler_idle_sleep_time`, deaf to
everything. A look costs some 15 ms of a core, so the sleep is a choice between time lost from task to task and a core
that is never idle. Here the executor, which the scheduler calls in each round, rests in its place (the setting is 0)
and is woken: by a worker that tells that its task has ended, and by what others write into the metadata database, for
which it asks with a query that costs a fraction of the scheduler's round.
"""

from __future__ import annotations

import time
from multiprocessing.connection import wait
from typing import Any, Final

from airflow.executors.local_executor import LocalExecutor
from airflow.utils.session import create_session
from sqlalchemy import text

# How soon a run that somebody starts is seen, and while a run goes on, a task that has ended, or that a trigger or a
# person's answer sets going.
LOOK_SECONDS: Final = 0.2
RUNNING_LOOK_SECONDS: Final = 0.1
# How soon the scheduler looks by itself: at retries and time-outs while a run goes on, at schedules while none does.
RUNNING_SECONDS: Final = 0.4
IDLE_SECONDS: Final = 1.0

# Plain text: the indexes of runs by state are partial, and none serves a state that is a parameter. A task has ended
# in the database before its worker says so, which takes it up to a heartbeat when it misses its process's end.
LOOK: Final = text(
    "SELECT EXISTS (SELECT 1 FROM dag_run WHERE state = 'running'),"
    " EXISTS (SELECT 1 FROM dag_run WHERE state = 'queued')"
    " OR EXISTS (SELECT 1 FROM task_instance WHERE state = 'scheduled')"
    " OR EXISTS (SELECT 1 FROM dag_run JOIN task_instance"
    " ON task_instance.dag_id = dag_run.dag_id AND task_instance.run_id = dag_run.run_id"
    " WHERE dag_run.state = 'running' AND task_instance.end_date > dag_run.last_scheduling_decision)"
)


class PromptLocalExecutor(LocalExecutor):
    """LocalExecutor, and the place in which the scheduler rests."""

    def heartbeat(self) -> None:
        """Hand out and collect work as LocalExecutor does; when there is neither, rest until there is some."""
        hands_out = bool(self.queued_tasks or self.queued_callbacks or self.queued_connection_tests)
        super().heartbeat()
        if hands_out or self.event_buffer:
            return
        self.rest()
        self.sync()

    def rest(self) -> None:
        """Return when the scheduler has something to do, or is to look for it by itself."""
        # SimpleQueue has no way to wait; its reader is what it polls itself.
        results: Any = self.result_queue
        began, pause = time.monotonic(), RUNNING_LOOK_SECONDS
        while not wait([results._reader], timeout=pause):
            runs, is_due = _look()
            if is_due or time.monotonic() - began >= (RUNNING_SECONDS if runs else IDLE_SECONDS):
                return
            pause = RUNNING_LOOK_SECONDS if runs else LOOK_SECONDS


def _look() -> tuple[bool, bool]:
    """Whether a run goes on, and whether a run or a task waits for the scheduler."""
    with create_session(scoped=False) as session:
        runs, is_due = session.execute(LOOK).one()
    return bool(runs), bool(is_due)
