"""A database host as a backup sees it: its role and archive, dumps with their manifest, and what it keeps of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.clocks import HostClock, read_clock
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession

# One upload takes no more: a signed URL lasts 15 minutes, and S3 takes 5 GiB in one request (AWS, "Uploading objects").
PIECE_BYTES = 1024**3
BATCH_PIECES = 40
UPLOAD_TIMEOUT_SECONDS = 1800.0
LSN = re.compile("[0-9A-F]{1,8}/[0-9A-F]{1,8}")


@dataclass(frozen=True)
class ArchiveState:
    """How far a primary's archive is. `waiting` counts WAL segments that are finished and not yet in the repository."""

    mode: str
    timeout_seconds: int
    archived_wal: str | None
    seconds_since_archived: float | None
    is_failing: bool
    waiting: int
    oldest_waiting_seconds: float | None


@dataclass(frozen=True)
class DatabaseHostState:
    """A database host: its role, how far a replica is behind, its space, and its archive."""

    host: str
    in_recovery: bool
    is_streaming: bool
    replay_lag_bytes: int
    free_bytes: int
    database_bytes: int
    system_identifier: str
    archive: ArchiveState


def parse_host_state(text: str, host: str) -> DatabaseHostState:
    """The output of include/hosts/backup_host_state.sh. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        return DatabaseHostState(
            host=host,
            in_recovery=bool(found["in_recovery"]),
            is_streaming=bool(found["streaming"]),
            replay_lag_bytes=int(found["replay_lag_bytes"] or 0),
            free_bytes=int(found["free_bytes"]),
            database_bytes=int(found["database_bytes"]),
            system_identifier=str(found["system_identifier"]),
            archive=ArchiveState(
                mode=str(found["archive_mode"]),
                timeout_seconds=int(found["archive_timeout_seconds"]),
                archived_wal=found["archived_wal"],
                seconds_since_archived=_seconds(found["seconds_since_archived"]),
                is_failing=bool(found["is_failing"]),
                waiting=int(found["waiting"]),
                oldest_waiting_seconds=_seconds(found["oldest_waiting_seconds"]),
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the database's state can't be read ({error}): {text[:200]!r}", host=host) from error


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


@dataclass(frozen=True)
class Piece:
    """A part of a dump's file, as large as one upload takes."""

    name: str
    offset: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class DumpReport:
    """A verified dump on a host: its pieces, the objects in its list, and the tables whose rows it holds."""

    seconds: float
    entries: int
    made_with: str
    pieces: tuple[Piece, ...]
    tables: frozenset[str]

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return sum(piece.size_bytes for piece in self.pieces)


@dataclass(frozen=True)
class Manifest:
    """The rows of every table, and the schema's revision (None without the application's), at one moment and LSN."""

    database: str
    at: datetime
    lsn: str
    system_identifier: str
    server_version: str
    size_bytes: int
    from_replica: bool
    schema_revision: int | None
    rows: Mapping[str, int]


def parse_manifest(text: str, host: str) -> Manifest:
    """The lines that include/hosts/backup_dump_start.sh has left. Raises NoDataError when they are none."""
    database: dict[str, Any] | None = None
    revision: int | None = None
    rows: dict[str, int] = {}
    try:
        for line in filter(None, text.splitlines()):
            item = json.loads(line)
            if item["what"] == "database":
                database = item
            elif item["what"] == "schema":
                revision = int(item["revision"])
            else:
                rows[str(item["name"])] = int(item["rows"])
        if database is None:
            raise ValueError("the database itself is missing")
        return Manifest(
            database=str(database["name"]),
            at=datetime.fromisoformat(database["at"]),
            lsn=str(database["lsn"]),
            system_identifier=str(database["system_identifier"]),
            server_version=str(database["server_version"]),
            size_bytes=int(database["size_bytes"]),
            from_replica=bool(database["in_recovery"]),
            schema_revision=revision,
            rows=rows,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the manifest can't be read ({error}): {text[:200]!r}", host=host) from error


def parse_dump_report(result: str, tables: str, host: str) -> DumpReport:
    """The result and the list of tables of a dump. Raises NoDataError when they are none."""
    try:
        found: dict[str, Any] = json.loads(result)
        pieces = tuple(
            Piece(str(each["name"]), int(each["offset"]), int(each["size_bytes"]), str(each["sha256"]))
            for each in found["pieces"]
        )
        return DumpReport(
            seconds=float(found["seconds"]),
            entries=int(found["entries"]),
            made_with=str(found["made_with"]),
            pieces=pieces,
            # pg_restore's list says "schema table".
            tables=frozenset(line.replace(" ", ".", 1) for line in tables.splitlines() if line),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the dump's result can't be read ({error}): {result[:200]!r}", host=host) from error


class BackupHost:
    """One database host, as the owner of its cluster.

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

    @property
    def host(self) -> str:
        """The host's name."""
        return self._session.host.name

    def state(self) -> DatabaseHostState:
        """Role, lag, space and archive. Raises NoDataError when they can't be told."""
        arguments = [self._work_dir, *self._server(), self._environment.database.name]
        return parse_host_state(self._session.run_script("backup_host_state", arguments).stdout, self.host)

    def clock(self) -> HostClock:
        """The host's clock against this worker's."""
        return read_clock(self._session)

    def raise_token(self, fence: Fence) -> None:
        """Tell the host a fencing token. Raises FencedOffError when it has seen a later one."""
        self._session.run_script("fence_raise", fence.arguments(self._work_dir))

    def wal_now(self) -> str:
        """The LSN up to which a primary has written. Raises RemoteCommandError on a replica."""
        return self._session.run_script("wal_now", self._server()).stdout.strip()

    def start_dump(self, fence: Fence, job: str) -> str:
        """Start counting and dumping in one snapshot, detached. Returns "started", "running" or "done"."""
        dump = self._policy.logical_dump
        how = [dump.format, str(dump.processes), str(dump.compression_level)] if dump else ["none", "1", "1"]
        limits = [str(PIECE_BYTES), str(self._policy.minimum_free_bytes), str(self._policy.timeout_seconds)]
        place = [self._work_dir, job, *self._server(), self._environment.database.name]
        arguments = [*fence.arguments(self._work_dir), *place, *how, *limits]
        return self._session.run_script("backup_dump_start", arguments, timeout_seconds=45).stdout.strip()

    def status(self, job: str) -> JobStatus:
        """How a job stands."""
        return parse_job_status(self._session.run_script("dump_status", [self._work_dir, job]).stdout, self.host)

    def snapshot_lsn(self, job: str) -> str | None:
        """The LSN of the snapshot of a dump that was started; None while it has none. Raises NoDataError."""
        path = f"{self._work_dir}/{job}/snapshot"
        found = self._session.run_script("file_read", [path], timeout_seconds=10, check=False)
        if found.exit_status != 0:
            return None
        lsn = found.stdout.strip()
        if not LSN.fullmatch(lsn):
            raise NoDataError(f"the snapshot of {job} has no LSN: {lsn[:100]!r}", host=self.host)
        return lsn

    def manifest(self, job: str) -> Manifest:
        """The manifest of a job that is done."""
        return parse_manifest(self._read(job, "manifest.jsonl"), self.host)

    def dump_report(self, job: str) -> DumpReport:
        """The result of a job that is done."""
        return parse_dump_report(self._read(job, "result.json"), self._read(job, "tables"), self.host)

    def upload(self, storage: ObjectStorage, job: str, pieces: Sequence[tuple[Piece, str]]) -> None:
        """Send pieces to their keys, and read each back. Raises RemoteCommandError when one is not what was sent."""
        for begin in range(0, len(pieces), BATCH_PIECES):
            batch = pieces[begin : begin + BATCH_PIECES]
            lines, certificates = [], ""
            for piece, key in batch:
                put_url = storage.transfer_source(key, "put_object").partition("\n")[0]
                get_url, _, certificates = storage.transfer_source(key).partition("\n")
                lines.append(f"{piece.name} {piece.offset} {piece.size_bytes} {piece.sha256} {put_url} {get_url}")
            done = self._session.run_script(
                "backup_upload",
                [self._work_dir, job],
                stdin="\n".join([*lines, "", certificates]),
                timeout_seconds=UPLOAD_TIMEOUT_SECONDS,
            )
            if done.stdout.strip() != str(len(batch)):
                raise NoDataError(f"{done.stdout.strip()!r} pieces were sent, expected {len(batch)}", host=self.host)

    def prune(self, fence: Fence, days: int, keep: Sequence[str]) -> tuple[str, ...]:
        """Remove dumps and logs that are older than so many days, but those whose job begins with one of `keep`."""
        arguments = [*fence.arguments(self._work_dir), self._work_dir, str(days), *keep]
        return tuple(self._session.run_script("backup_prune", arguments, timeout_seconds=120).stdout.split())

    def _server(self) -> list[str]:
        database = self._environment.database
        return [str(database.major_version), self._session.host.path(database.socket_dir), str(database.port)]

    def _read(self, job: str, name: str) -> str:
        return self._session.run_script("file_read", [f"{self._work_dir}/{job}/{name}"]).stdout
