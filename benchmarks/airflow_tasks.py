"""What Airflow itself takes for a task."""

from __future__ import annotations

import subprocess
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Final

from benchmarks.rows import Row
from benchmarks.session import SCRATCH_DAG_ID, BenchmarkError, Session
from lab.waiting import scaled

NEW_PROCESSES: Final = 5


def measure(session: Session) -> list[Row]:
    """From the start of an empty task to the start of the next one, beside a new Python process with Airflow's SDK.

    The process is what every step would take at the least, were it started by a script or by cron.
    """
    run_id = session.run(SCRATCH_DAG_ID, {})
    tasks = sorted(session.client.task_instances(SCRATCH_DAG_ID, run_id), key=lambda task: task.task_id)
    starts = [task.start_date for task in tasks if task.start_date is not None]
    if len(starts) != len(tasks):
        raise BenchmarkError(f"{SCRATCH_DAG_ID} run {run_id}: a task has no start")
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(starts)]
    processes = [_new_process_seconds() for _ in range(NEW_PROCESSES)]
    session.say(f"{len(tasks)} empty tasks: {min(gaps):.2f} to {max(gaps):.2f} s each")
    return [
        Row("airflow.task_overhead_seconds", round(median(gaps), 3), round(median(processes), 3), "s", len(gaps)),
    ]


def _new_process_seconds() -> float:
    began = time.monotonic()
    # The names are imported when they are used first.
    program = "from airflow.sdk import BaseOperator, DAG"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=scaled(60))
    return time.monotonic() - began
