"""Detached jobs on database hosts, as a run's tasks wait for them: a while here, then in the triggerer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

from sebenza_ops.backup.errors import BackupFailedError
from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.ledger import Holder
from sebenza_ops.systems.pgbackrest import JobStatus

# A job that ends within this time costs no way through the triggerer, which takes seconds.
QUICK_SECONDS = 60.0
# Asked often at first, then less so: a job that takes a minute is known to have ended within half a second.
FIRST_POLL_SECONDS = 0.1
POLL_INTERVAL_SECONDS = 0.5
TRIGGER_INTERVAL_SECONDS = 5.0
# One wait in the triggerer. The lease lasts as long: a run that is given up meanwhile does not keep it for hours.
WAIT_SECONDS = 600.0


def job_key(holder: Holder, clear_number: int) -> str:
    """A run as the name of a directory. A run that was cleared makes another backup, which is another job."""
    return hashlib.sha256(f"{holder.dag_id}/{holder.run_id}/{clear_number}".encode()).hexdigest()[:32]


def database_login(environment: Environment) -> str:
    """The connection of the cluster's owner. The inventory demands it where there is a policy for backups."""
    conn_id = environment.database.ssh_conn_id
    if conn_id is None:
        raise ValueError(f"environment {environment.name} has no database.ssh_conn_id")
    return conn_id


class JobRunning(Exception):
    """The job goes on by itself on its host. Carries how to wait for it."""

    def __init__(self, environment: Environment, host: Host, job: str, what: str) -> None:
        super().__init__(f"{what} works on {host.name}")
        self._environment, self._host, self._job, self._what = environment, host, job, what
        policy = environment.policies.backup
        assert policy is not None
        self._work_dir = host.path(policy.work_dir)

    def trigger(self) -> Any:
        """The trigger that fires when the job has ended."""
        from sebenza_ops.backup.triggers import JobEndedTrigger

        return JobEndedTrigger(
            waiting_for=self._what,
            judge_name="",
            judge_arguments={},
            ssh_conn_id=database_login(self._environment),
            hosts=[self._host.model_dump(mode="json")],
            script="dump_status",
            arguments={self._host.name: [self._work_dir, self._job]},
            interval_seconds=TRIGGER_INTERVAL_SECONDS,
            deadline=time.time() + WAIT_SECONDS,
        )


def await_job(
    environment: Environment,
    host: Host,
    job: str,
    what: str,
    start: Callable[[], str],
    status: Callable[[str], JobStatus],
    sleep: Callable[[float], None] = time.sleep,
) -> JobStatus:
    """Start a job unless it works or is done, and wait for its end.

    Returns: how it ended well.

    Raises:
        JobRunning: It takes longer; ask again when it has ended.
        BackupFailedError: It has failed; the message has the end of its log.
    """
    start()
    until, pause = time.monotonic() + QUICK_SECONDS, FIRST_POLL_SECONDS
    while True:
        found = status(job)
        if found.state == "done":
            return found
        if found.state != "running":
            raise BackupFailedError(f"{what} on {host.name} has failed: {found.log_tail or 'it was killed'}")
        if time.monotonic() >= until:
            raise JobRunning(environment, host, job, what)
        sleep(pause)
        pause = min(2 * pause, POLL_INTERVAL_SECONDS)
