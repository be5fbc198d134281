"""Finds the operating system's processes of a running task, so that tests can kill them.

LocalExecutor runs a task in two processes (see airflow/executors/local_executor.py and supervisor.py of the SDK):
a *worker*, a fork of the scheduler that talks to the API server and sends heartbeats, and below it the *task*
process, leader of its own process group, in which the operator runs. Both have the id of the task instance,
which is new with every try, in their titles.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from lab.waiting import Patience

if TYPE_CHECKING:
    from lab.airflow.client import AirflowClient
    from lab.airflow.supervision import Supervision

_WORKER_TITLE = "airflow worker -- LocalExecutor"
_TASK_TITLE = "airflow worker -- "
POLL_SECONDS = 0.02


class NoSuchTaskProcessError(LookupError):
    """The task has no process: it does not run, or it has just ended."""


@dataclass(frozen=True)
class TaskProcesses:
    """The two processes of a running task."""

    worker_pid: int
    task_pid: int

    def kill_task(self) -> None:
        """SIGKILL the task's process group: the operator and all that it started; its worker stays and reports it."""
        os.killpg(self.task_pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        """SIGKILL worker and task together: nobody is left to report; Airflow finds out by the missing heartbeat."""
        os.kill(self.worker_pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):  # It may notice that its worker is gone first.
            os.killpg(self.task_pid, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP both, as a machine that hangs: no heartbeat, and every timer of the task stands still."""
        os.kill(self.worker_pid, signal.SIGSTOP)
        os.killpg(self.task_pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT both: the zombie wakes up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.task_pid, signal.SIGCONT)
        os.kill(self.worker_pid, signal.SIGCONT)


def task_processes(
    supervision: Supervision,
    client: AirflowClient,
    dag_id: str,
    run_id: str,
    task_id: str,
    *,
    map_index: int = -1,
    timeout_seconds: float = 0,
) -> TaskProcesses:
    """The processes of a running task.

    Args:
        supervision: the Airflow whose processes are searched.
        client: to learn the id of the task's current try.
        dag_id: the DAG.
        run_id: the run.
        task_id: the task.
        map_index: of a mapped task.
        timeout_seconds: how long to wait for the task to run.

    Raises:
        NoSuchTaskProcessError: it did not run within the time.
    """
    patience = Patience(f"{dag_id} {run_id}: task {task_id} has a process", timeout_seconds)
    while True:
        instance = client.task_instance(dag_id, run_id, task_id, map_index=map_index)
        found = _find(supervision, instance.id)
        if found is not None:
            return found
        if patience.is_over():
            raise NoSuchTaskProcessError(
                f"{dag_id} {run_id}: task {instance.label} has no process; its state is {instance.state}"
            )
        time.sleep(POLL_SECONDS)


def task_process(
    supervision: Supervision, client: AirflowClient, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1
) -> int:
    """Process id of the task process; see `task_processes`."""
    return task_processes(supervision, client, dag_id, run_id, task_id, map_index=map_index).task_pid


def worker_process(
    supervision: Supervision, client: AirflowClient, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1
) -> int:
    """Process id of the worker that runs the task; see `task_processes`."""
    return task_processes(supervision, client, dag_id, run_id, task_id, map_index=map_index).worker_pid


def _find(supervision: Supervision, instance_id: str) -> TaskProcesses | None:
    worker = task = 0
    for process in supervision.descendants():
        title = _title(process)
        if instance_id not in title:
            continue
        if title.startswith(_WORKER_TITLE):
            worker = process.pid
        elif title.startswith(_TASK_TITLE):
            task = process.pid
    return TaskProcesses(worker, task) if worker and task else None


def _title(process: psutil.Process) -> str:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
