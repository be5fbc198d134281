"""Restoring a backup set into a scratch instance on a database host: whether it can be done, and how long it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession


@dataclass(frozen=True)
class RestoreReport:
    """A set that was restored and checked: its times, its size, and the rows of every table at its manifest's LSN.

    `restore_seconds` ends when all files are on the disk; `resident_bytes` of them were in the page cache when the
    replay began (None: not told); `replay_seconds` is all WAL, up to the LSN that was now.
    """

    restore_seconds: float
    replay_seconds: float
    check_seconds: float
    restored_bytes: int
    resident_bytes: int | None
    has_checksums: bool
    rows: Mapping[str, int]

    @property
    def bytes_per_second(self) -> float:
        """How fast files came back, by the clock of the host."""
        return self.restored_bytes / max(self.restore_seconds, 0.001)


def parse_restore_report(result: str, rows: str, host: str) -> RestoreReport:
    """What include/hosts/restore_test_start.sh has left. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(result)
        counted = {str(item["name"]): int(item["rows"]) for item in map(json.loads, filter(None, rows.splitlines()))}
        return RestoreReport(
            restore_seconds=float(found["restore_seconds"]),
            replay_seconds=float(found["replay_seconds"]),
            check_seconds=float(found["check_seconds"]),
            restored_bytes=int(found["restored_bytes"]),
            resident_bytes=int(found["resident_bytes"]) if int(found["resident_bytes"]) >= 0 else None,
            has_checksums=bool(found["checksums"]),
            rows=counted,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the restore's result can't be read ({error}): {result[:200]!r}", host=host) from error


class RestoreTest:
    """Restores into a scratch instance on one database host, as the owner of its cluster.

    Args:
        environment: The environment; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy, self._environment, self._session = policy, environment, session
        self._work_dir = session.host.path(policy.work_dir)

    def start(self, fence: Fence, job: str, label: str, lsn: str, now_lsn: str, size_bytes: int) -> str:
        """Start restoring a set to an LSN and on to another one, detached. Returns "started", "running" or "done"."""
        database, config = self._environment.database, self._session.host.path(self._policy.config_file)
        need = size_bytes + size_bytes // 10 + self._policy.minimum_free_bytes
        limits = [str(self._policy.processes), str(need), str(self._policy.timeout_seconds)]
        what = [config, self._policy.stanza, label, lsn, now_lsn, str(database.major_version), database.name]
        arguments = [*fence.arguments(self._work_dir), self._work_dir, job, *what, *limits]
        return self._session.run_script("restore_test_start", arguments, timeout_seconds=45).stdout.strip()

    def status(self, job: str) -> JobStatus:
        """How a job stands."""
        text = self._session.run_script("dump_status", [self._work_dir, job]).stdout
        return parse_job_status(text, self._session.host.name)

    def report(self, job: str) -> RestoreReport:
        """The result of a job that is done."""
        result, rows = (
            self._session.run_script("file_read", [f"{self._work_dir}/{job}/{name}"]).stdout
            for name in ("result.json", "rows.jsonl")
        )
        return parse_restore_report(result, rows, self._session.host.name)
