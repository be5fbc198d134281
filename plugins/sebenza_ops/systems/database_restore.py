"""A dump restored into a new database of the running server: fetched, restored, named when it is right, or removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession

# A signed URL lasts 15 minutes; a piece has at most 1 GiB.
BATCH_PIECES = 10
FETCH_TIMEOUT_SECONDS = 1800.0
DISCARD_TIMEOUT_SECONDS = 150.0


DUMPS_PREFIX, MANIFEST = "backups/database/", "manifest.json"


def dump_prefix(environment: str, label: str) -> str:
    """Where a dump and the manifest of a backup are in object storage."""
    return f"{DUMPS_PREFIX}{environment}/{label}/"


def manifest_key(environment: str, label: str) -> str:
    """Where the manifest of a backup is in object storage."""
    return dump_prefix(environment, label) + MANIFEST


@dataclass(frozen=True)
class StoredPiece:
    """A part of a dump in object storage."""

    key: str
    name: str
    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class BackupManifest:
    """What a backup held when it was made: a restore is compared with it. `pieces` is empty without a dump.

    `key` is where it is.
    """

    label: str
    database: str
    at: str
    lsn: str
    size_bytes: int
    schema_revision: int | None
    rows: Mapping[str, int]
    pieces: tuple[StoredPiece, ...]
    key: str = ""


def parse_backup_manifest(found: Any, key: str) -> BackupManifest:
    """The manifest that a backup has left in object storage. Raises NoDataError when it can't be read."""
    try:
        revision = found["schema_revision"]
        return BackupManifest(
            label=str(found["backup"]),
            database=str(found["database"]),
            at=str(found["at"]),
            lsn=str(found["lsn"]),
            size_bytes=int(found["size_bytes"]),
            schema_revision=None if revision is None else int(revision),
            rows={str(table): int(rows) for table, rows in found["rows"].items()},
            pieces=tuple(
                StoredPiece(
                    str(piece_key),
                    str(piece["name"]),
                    int(piece["offset"]),
                    int(piece["size_bytes"]),
                    str(piece["sha256"]),
                )
                for piece_key, piece in found["objects"].items()
            ),
            key=key,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoDataError(f"the manifest {key} can't be read ({error})", host="object storage") from error


class DatabaseRestore:
    """A run's restored database on the primary's host, as the owner of its cluster.

    Args:
        environment: The environment; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.
        key: The run (`recovery.run_record.job_key`).
    """

    def __init__(self, environment: Environment, session: HostSession, key: str) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy, self._session, database = policy, session, environment.database
        self._database = database.name
        self._bin = f"/usr/lib/postgresql/{database.major_version}/bin"
        self._server = [self._bin, session.host.path(database.socket_dir), str(database.port)]
        self._work_dir, self._state_dir = session.host.path(policy.work_dir), session.host.path(database.state_dir)
        self.job = f"{key}-database"
        self.restored = f"sebenza_restore_{key[:12]}"

    @property
    def host(self) -> str:
        """The host's name."""
        return self._session.host.name

    def databases(self) -> tuple[str, ...]:
        """The databases of the server."""
        _, socket, port = self._server
        argv = [f"{self._bin}/psql", "-XAtq", f"--host={socket}", f"--port={port}", "--dbname=postgres"]
        said = self._session.run([*argv, "-c", "SELECT datname FROM pg_database ORDER BY 1"]).stdout
        return tuple(said.split("\n")[:-1])

    def fetch(self, storage: ObjectStorage, pieces: Sequence[StoredPiece]) -> None:
        """Bring a dump to the host; what is there already is not fetched again.

        Raises RemoteCommandError when a piece is not what was stored.
        """
        for begin in range(0, len(pieces), BATCH_PIECES):
            batch = pieces[begin : begin + BATCH_PIECES]
            lines, certificates = [], ""
            for piece in batch:
                url, _, certificates = storage.transfer_source(piece.key).partition("\n")
                lines.append(f"{piece.name} {piece.offset} {piece.size_bytes} {piece.sha256} {url}")
            done = self._session.run_script(
                "dump_fetch",
                [self._work_dir, self.job],
                stdin="\n".join([*lines, "", certificates]),
                timeout_seconds=FETCH_TIMEOUT_SECONDS,
            )
            if done.stdout.strip() != str(len(batch)):
                raise NoDataError(f"{done.stdout.strip()!r} pieces came, expected {len(batch)}", host=self.host)

    def start(self, fence: Fence, source_socket: str = "") -> str:
        """Start restoring, detached; with a `source_socket` the server there is dumped first.

        Returns "started", "running" or "done".
        """
        how = [self._database, self.restored, str(self._policy.processes), source_socket or "-"]
        arguments = [*self._fenced(fence), self._work_dir, self.job, *self._server, *how]
        answer = self._session.run_script(
            "database_restore_start", [*arguments, str(self._policy.timeout_seconds)], timeout_seconds=45
        ).stdout.strip()
        if answer not in {"started", "running", "done"}:
            raise OutsideSystemError(f"the restore was not started: {answer[:200]!r}", host=self.host)
        return answer

    def status(self) -> JobStatus:
        """How it stands."""
        text = self._session.run_script("dump_status", [self._work_dir, self.job]).stdout
        return parse_job_status(text, self.host)

    def oid(self) -> int:
        """The restored database's number, once it is done. Raises NoDataError."""
        text = self._session.run_script("file_read", [f"{self._work_dir}/{self.job}/result.json"]).stdout
        try:
            return int(json.loads(text)["oid"])
        except (KeyError, TypeError, ValueError) as error:
            raise NoDataError(
                f"the restore's result can't be read ({error}): {text[:200]!r}", host=self.host
            ) from error

    def publish(self, fence: Fence, target: str, oid: int) -> str:
        """Give the restored database its name. Returns "published" or "already"."""
        arguments = [*self._fenced(fence), *self._server, self.restored, target, str(oid)]
        return self._session.run_script("database_restore_publish", arguments).stdout.strip()

    def discard(self, fence: Fence) -> str:
        """End it, and remove what has no name yet; one that was published stays. Returns "removed" or "absent"."""
        arguments = [*self._fenced(fence), self._work_dir, self.job, *self._server, self.restored]
        result = self._session.run_script(
            "database_restore_discard", arguments, timeout_seconds=DISCARD_TIMEOUT_SECONDS
        )
        return result.stdout.strip()

    def _fenced(self, fence: Fence) -> list[str]:
        return fence.arguments(self._state_dir)
