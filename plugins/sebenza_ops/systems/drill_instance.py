"""A copy of the database for a drill: restored from a repository with given keys, running on a port of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from sebenza_ops.environments.models import Environment, Host
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession


@dataclass(frozen=True)
class RepositoryKeys:
    """What opens a repository of backups; not shown."""

    passphrase: str = field(repr=False)
    key_id: str = field(repr=False)
    secret: str = field(repr=False)

    @classmethod
    def from_connections(cls, cipher_conn_id: str, repository_conn_id: str) -> RepositoryKeys:
        """The passphrase and the key of two Airflow connections."""
        from airflow.sdk import BaseHook

        repository = BaseHook.get_connection(repository_conn_id)
        passphrase = BaseHook.get_connection(cipher_conn_id).password
        return cls(passphrase or "", repository.login or "", repository.password or "")


@dataclass(frozen=True)
class RestoredCopy:
    """A copy that runs: its times, its size, and the last commit that it has, in epoch seconds."""

    restore_seconds: float
    replay_seconds: float
    last_commit_at: float
    restored_bytes: int
    system_identifier: str


def parse_restored_copy(text: str, host: str) -> RestoredCopy:
    """What include/hosts/drill_start.sh has left. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        return RestoredCopy(
            restore_seconds=float(found["restore_seconds"]),
            replay_seconds=float(found["replay_seconds"]),
            last_commit_at=float(found["last_commit_at"]),
            restored_bytes=int(found["restored_bytes"]),
            system_identifier=str(found["system_identifier"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"what was restored can't be read ({error}): {text[:200]!r}", host=host) from error


class DrillInstance:
    """The instance of one drill on one database host, as the owner of its cluster.

    Args:
        environment: The environment at the host's site; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        job: The drill's own name.
    """

    def __init__(self, environment: Environment, session: HostSession, job: str) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._environment, self._policy, self._session, self._job = environment, policy, session, job
        self._work_dir = session.host.path(policy.work_dir)
        self._version = str(environment.database.major_version)

    def start(self, fence: Fence, keys: RepositoryKeys, port: int, client: Host, size_bytes: int) -> str:
        """Start restoring, detached; it stays running on the port. Returns "started", "running" or "done"."""
        config, host = self._session.host.path(self._policy.config_file), self._session.host
        need = size_bytes + size_bytes // 10 + self._policy.minimum_free_bytes
        what = [self._work_dir, self._job, config, self._policy.stanza, self._version, host.address, str(port)]
        limits = [str(self._policy.processes), str(need), str(self._policy.timeout_seconds)]
        arguments = [*fence.arguments(self._work_dir), *what, client.address, self._environment.database.name, *limits]
        stdin = f"{keys.passphrase}\n{keys.key_id}\n{keys.secret}\n"
        return self._session.run_script("drill_start", arguments, stdin=stdin, timeout_seconds=45).stdout.strip()

    def status(self) -> JobStatus:
        """How the restore stands."""
        text = self._session.run_script("dump_status", [self._work_dir, self._job]).stdout
        return parse_job_status(text, self._session.host.name)

    def restored(self) -> RestoredCopy:
        """What was restored, of one that is done."""
        text = self._session.run_script("file_read", [f"{self._work_dir}/{self._job}/result.json"]).stdout
        return parse_restored_copy(text, self._session.host.name)

    def stop(self, fence: Fence) -> str:
        """End the instance and remove what it restored. Returns "stopped" or "absent"."""
        arguments = [*fence.arguments(self._work_dir), self._work_dir, self._job, self._version]
        return self._session.run_script("drill_stop", arguments, timeout_seconds=180).stdout.strip()
