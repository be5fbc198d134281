"""A logical dump out of a pgBackRest set: restored beside, changed where a caller says how, dumped, and sent."""

from __future__ import annotations

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.database_dump import UPLOAD_TIMEOUT_SECONDS, DumpStatus, parse_dump_status
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession

#: The target of a restore that stops where the backup has ended.
END_OF_BACKUP = "immediate"


class SetDump:
    """One job on one database host, as the owner of its cluster. The running instance is not touched.

    Args:
        environment: The environment whose repository has the set; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        job: The job, as the name of a directory.
    """

    def __init__(self, environment: Environment, session: HostSession, job: str) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy, self._environment, self._session, self._job = policy, environment, session, job
        self._work_dir = session.host.path(policy.work_dir)

    @staticmethod
    def space_needed(size_bytes: int) -> int:
        """What a host must have free for a set of this size: the copy, a tenth for its WAL, and half for the dump."""
        return size_bytes + size_bytes // 10 + size_bytes // 2

    def start(self, fence: Fence, label: str, target: str, size_bytes: int, prepare: str = "") -> str:
        """Start it, detached. Returns "started", "running" or "done".

        Args:
            fence: The fence of the environment's backups: no set goes meanwhile.
            label: The set.
            target: An LSN, or END_OF_BACKUP.
            size_bytes: What the set's restore writes.
            prepare: SQL that is run in the restored database before it is dumped.
        """
        database = self._environment.database
        need = self.space_needed(size_bytes) + self._policy.minimum_free_bytes
        limits = [str(self._policy.processes), str(need), str(self._policy.timeout_seconds)]
        config = self._session.host.path(self._policy.config_file)
        what = [config, self._policy.stanza, label, target, str(database.major_version), database.name]
        arguments = [*fence.arguments(self._work_dir), self._work_dir, self._job, *what, *limits]
        return self._session.run_script("set_dump_start", arguments, stdin=prepare, timeout_seconds=45).stdout.strip()

    def status(self) -> DumpStatus:
        """How it stands."""
        text = self._session.run_script("dump_status", [self._work_dir, self._job]).stdout
        return parse_dump_status(text, self._session.host.name)

    def job_status(self, job: str) -> JobStatus:
        """How a job stands, as others tell it."""
        text = self._session.run_script("dump_status", [self._work_dir, job]).stdout
        return parse_job_status(text, self._session.host.name)

    def prepared(self) -> str:
        """What the SQL has printed."""
        return self._session.run_script("file_read", [f"{self._work_dir}/{self._job}/prepared"]).stdout

    def upload(self, storage: ObjectStorage, key: str, sha256: str) -> None:
        """Send it and read it back. Raises RemoteCommandError when what comes back is not what was sent."""
        put_url = storage.transfer_source(key, "put_object").partition("\n")[0]
        source = f"{put_url}\n{storage.transfer_source(key)}"
        arguments = [self._work_dir, self._job, sha256]
        self._session.run_script("dump_upload", arguments, stdin=source, timeout_seconds=UPLOAD_TIMEOUT_SECONDS)

    def discard(self) -> None:
        """Remove it from the host."""
        self._session.run_script("dump_discard", [self._work_dir, self._job], timeout_seconds=120)
