"""A whole cluster restored to a moment, beside the running one: made, looked at, put in its place, or removed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession

DISCARD_TIMEOUT_SECONDS = 300.0
SWAP_TIMEOUT_SECONDS = 160.0


@dataclass(frozen=True)
class PointReport:
    """A cluster that was restored and checked, and that runs for people to look at.

    Attributes:
        restore_seconds: Until its files were there.
        replay_seconds: Until the WAL was replayed.
        check_seconds: pg_amcheck and pg_checksums.
        restored_bytes: Size of its files before the replay.
        last_commit_at: The last transaction that was replayed; None when there was none in the WAL.
        lsn: The position that was reached.
        timeline: Its own timeline, which began there.
        stopped: What PostgreSQL said about why it stopped there.
        socket: Directory of its Unix socket on the host.
    """

    restore_seconds: float
    replay_seconds: float
    check_seconds: float
    restored_bytes: int
    last_commit_at: datetime | None
    lsn: str
    timeline: int
    system_identifier: str
    tablespaces: int
    stopped: str
    socket: str


def parse_point_report(text: str, host: str) -> PointReport:
    """The result of include/hosts/point_restore_start.sh. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        reached = found["reached"]
        last = reached["last_commit_at"]
        return PointReport(
            restore_seconds=float(found["restore_seconds"]),
            replay_seconds=float(found["replay_seconds"]),
            check_seconds=float(found["check_seconds"]),
            restored_bytes=int(found["restored_bytes"]),
            last_commit_at=datetime.fromisoformat(last) if last else None,
            lsn=str(reached["lsn"]),
            timeline=int(reached["timeline"]),
            system_identifier=str(reached["system_identifier"]),
            tablespaces=int(reached["tablespaces"]),
            stopped=str(found["stopped"]),
            socket=str(found["socket"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the restore's result can't be read ({error}): {text[:300]!r}", host=host) from error


class PointRestore:
    """A run's restored cluster on one database host, as the owner of the running one.

    Args:
        environment: The environment; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        key: The run (`recovery.run_record.job_key`): with its first twelve characters, what is made is called
            `<data directory>.restored-<key>`.
    """

    def __init__(self, environment: Environment, session: HostSession, key: str) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy, self._session, database = policy, session, environment.database
        version = str(database.major_version)
        self._bin = f"/usr/lib/postgresql/{version}/bin"
        self.data = session.host.path(database.data_dir.replace("{version}", version))
        self.restored, self.aside = f"{self.data}.restored-{key[:12]}", f"{self.data}.before-{key[:12]}"
        self.job = f"{key}-point"
        self._work_dir, self._state_dir = session.host.path(policy.work_dir), session.host.path(database.state_dir)

    @property
    def host(self) -> str:
        """The host's name."""
        return self._session.host.name

    def start(
        self,
        fence: Fence,
        label: str,
        kind: str,
        target: str,
        timeline: int,
        need_bytes: int,
        *,
        exclusive: bool = False,
    ) -> str:
        """Start restoring a set up to a target, detached. Returns "started", "running" or "done"."""
        config = self._session.host.path(self._policy.config_file)
        what = [config, self._policy.stanza, label, kind, target, str(timeline), "yes" if exclusive else "no"]
        limits = [str(self._policy.processes), str(need_bytes), str(self._policy.timeout_seconds)]
        arguments = [*self._fenced(fence), self._work_dir, self.job, *what, self.restored, self._bin, *limits]
        answer = self._session.run_script("point_restore_start", arguments, timeout_seconds=45).stdout.strip()
        if answer not in {"started", "running", "done"}:
            raise OutsideSystemError(f"the restore was not started: {answer[:200]!r}", host=self.host)
        return answer

    def status(self) -> JobStatus:
        """How it stands."""
        text = self._session.run_script("dump_status", [self._work_dir, self.job]).stdout
        return parse_job_status(text, self.host)

    def report(self) -> PointReport:
        """The result, once it is done."""
        text = self._session.run_script("file_read", [f"{self._work_dir}/{self.job}/result.json"]).stdout
        return parse_point_report(text, self.host)

    def discard(self, fence: Fence) -> str:
        """End it and remove the copy. What has become the server stays. Returns "removed" or "absent"."""
        arguments = [*self._fenced(fence), self._work_dir, self.job, self.restored, self._bin]
        result = self._session.run_script("point_restore_discard", arguments, timeout_seconds=DISCARD_TIMEOUT_SECONDS)
        return result.stdout.strip()

    def stage(self) -> str:
        """How far a swap has come: "before", "between", "after", or "gone" when there is no copy to put in."""
        arguments = [self.data, self.restored, self.aside]
        return self._session.run_script("point_stage", arguments, timeout_seconds=15).stdout.strip()

    def swap(self, fence: Fence, system_identifier: str) -> str:
        """Put it in the place of the cluster, which is kept. Neither may run. Returns "swapped" or "already"."""
        arguments = [*self._fenced(fence), self.data, self.restored, self.aside, self._bin, system_identifier]
        return self._session.run_script("point_swap", arguments, timeout_seconds=SWAP_TIMEOUT_SECONDS).stdout.strip()

    def unswap(self, fence: Fence) -> str:
        """Take the swap back. Neither may run. Returns "taken back" or "unchanged"."""
        arguments = [*self._fenced(fence), self.data, self.restored, self.aside, self._bin]
        return self._session.run_script("point_unswap", arguments, timeout_seconds=60).stdout.strip()

    def _fenced(self, fence: Fence) -> list[str]:
        return fence.arguments(self._state_dir)
