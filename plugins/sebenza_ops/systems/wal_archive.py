"""The WAL that a repository holds: which segments follow one another without a gap, and what is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.clocks import HostClock, read_clock
from sebenza_ops.systems.database_server import SEGMENT_BYTES, parse_lsn
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.pgbackrest import READ_TIMEOUT_SECONDS, JobStatus, parse_job_status
from sebenza_ops.systems.ssh import Fence, HostSession

SEGMENTS_PER_FILE_NAME = 2**32 // SEGMENT_BYTES
_SEGMENT = re.compile(r"^(\d+-\d+)/[0-9A-F]{16}/([0-9A-F]{24})-[0-9a-f]{40}(?:\.\w+)?$", re.M)
_HISTORY = re.compile(r"^(\d+-\d+)/([0-9A-F]{8})\.history$", re.M)
_BRANCH = re.compile(r"^\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)", re.M)


@dataclass(frozen=True)
class Branch:
    """A timeline's part of a history: from which position it counts, and up to which; None for the last one."""

    timeline: int
    begin_lsn: int
    end_lsn: int | None


def parse_history(timeline: int, text: str) -> tuple[Branch, ...]:
    """A timeline's way from the first one, by its history file (PostgreSQL, timeline.c); the first has none."""
    branches: list[Branch] = []
    begin = 0
    for number, end in _BRANCH.findall(text):
        branches.append(Branch(int(number), begin, parse_lsn(end)))
        begin = branches[-1].end_lsn or 0
    return (*branches, Branch(timeline, begin, None))


def segment_number(name: str) -> int:
    """A segment's place in the WAL, whatever its timeline."""
    return int(name[8:16], 16) * SEGMENTS_PER_FILE_NAME + int(name[16:24], 16)


def segment_of(timeline: int, number: int) -> str:
    """The name of a segment."""
    return f"{timeline:08X}{number // SEGMENTS_PER_FILE_NAME:08X}{number % SEGMENTS_PER_FILE_NAME:08X}"


@dataclass(frozen=True)
class Chain:
    """Segments that follow one another without a gap; the one that is missing then, and whether later ones exist."""

    segments: tuple[str, ...]
    missing: str
    is_gap: bool


def follow(segments: Collection[str], history: Sequence[Branch], first: str) -> Chain:
    """The segments that a recovery finds from `first` on, along a history.

    Args:
        segments: All segments that are archived.
        history: The timelines to follow, as `parse_history` gives them.
        first: Where a set's WAL begins.
    """
    found: list[str] = []
    number = segment_number(first)
    while (name := _segment_at(history, number)) in segments:
        found.append(name)
        number += 1
    beyond = (segment_number(each) for each in segments if each == _segment_at(history, segment_number(each)))
    return Chain(tuple(found), name, any(other > number for other in beyond))


def _segment_at(history: Sequence[Branch], number: int) -> str:
    """The segment that counts at a place: of the newest timeline that had begun by then. What an older one wrote beyond
    its end was left.
    """
    branch = next(each for each in reversed(history) if each.begin_lsn // SEGMENT_BYTES <= number)
    return segment_of(branch.timeline, number)


def is_on(history: Sequence[Branch], timeline: int, lsn: int) -> bool:
    """Whether a history has gone through a position of a timeline."""
    return any(branch.timeline == timeline and (branch.end_lsn is None or lsn <= branch.end_lsn) for branch in history)


@dataclass(frozen=True)
class ArchivedWal:
    """What the repository holds of the current cluster: its segments, and the timelines with a history file."""

    archive_id: str
    segments: frozenset[str]
    timelines: frozenset[int]


def parse_listing(text: str, host: str) -> ArchivedWal:
    """The output of `repo-ls --recurse archive/<stanza>`. Raises NoDataError when no WAL is there."""
    found = _SEGMENT.findall(text)
    if not found:
        raise NoDataError("the repository holds no WAL: is this the stanza that is archived to?", host=host)
    # A stanza that was upgraded has several; the last is the cluster of now (pgBackRest, stanza-upgrade).
    archive_id = max((each for each, _ in found), key=lambda name: int(name.partition("-")[2]))
    return ArchivedWal(
        archive_id=archive_id,
        segments=frozenset(name for each, name in found if each == archive_id),
        timelines=frozenset(int(name, 16) for each, name in _HISTORY.findall(text) if each == archive_id),
    )


@dataclass(frozen=True)
class WalEnd:
    """The last record of archived WAL, and the last commit in it; None where the segments that were read have none."""

    segment: str
    lsn: int
    commit_lsn: int | None
    commit_at: datetime | None


@dataclass(frozen=True)
class RestorePoint:
    """A named restore point in the WAL. `after` is the last commit before it in the same segment, if there is one."""

    name: str
    lsn: int
    after: datetime | None


@dataclass(frozen=True)
class TransactionEnd:
    """How a transaction has ended, and when."""

    is_commit: bool
    lsn: int
    at: datetime


def parse_found(text: str, host: str) -> list[WalEnd | RestorePoint | TransactionEnd]:
    """What include/hosts/archive_scan_start.sh has found. Raises NoDataError when it can't be read."""
    found: list[WalEnd | RestorePoint | TransactionEnd] = []
    try:
        for line in filter(None, text.splitlines()):
            item = json.loads(line)
            at = _moment(str(item.get("at") or item.get("after") or ""))
            if item["what"] == "end":
                if item["lsn"]:
                    commit = parse_lsn(item["commit"]) if item["commit"] else None
                    found.append(WalEnd(str(item["segment"]), parse_lsn(item["lsn"]), commit, at))
            elif item["what"] == "point":
                found.append(RestorePoint(str(item["name"]), parse_lsn(item["lsn"]), at))
            elif at is not None:
                found.append(TransactionEnd(str(item["what"]).startswith("COMMIT"), parse_lsn(item["lsn"]), at))
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"what is in the archived WAL can't be read ({error}): {text[:200]!r}", host=host) from error
    return found


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


@dataclass(frozen=True)
class Room:
    """Free space on a database host: where jobs work, and beside the data directory."""

    work_free_bytes: int
    data_free_bytes: int
    one_disk: bool
    may_write_beside: bool
    now: datetime


def parse_room(text: str, host: str) -> Room:
    """The output of include/hosts/recovery_host_state.sh. Raises NoDataError when it is none."""
    try:
        found: dict[str, Any] = json.loads(text)
        return Room(
            work_free_bytes=int(found["work_free_bytes"]),
            data_free_bytes=int(found["data_free_bytes"]),
            one_disk=bool(found["one_disk"]),
            may_write_beside=bool(found["may_write_beside"]),
            now=datetime.fromtimestamp(float(found["now"]), UTC),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"its free space can't be read ({error}): {text[:200]!r}", host=host) from error


@dataclass(frozen=True)
class Rows:
    """The rows of every table of every database of a server, and the revision of each schema that has one."""

    rows: Mapping[str, Mapping[str, int]]
    revisions: Mapping[str, int]


def parse_rows(text: str, host: str) -> Rows:
    """The output of include/hosts/database_rows.sh. Raises NoDataError when it is none."""
    rows: dict[str, dict[str, int]] = {}
    revisions: dict[str, int] = {}
    try:
        for line in filter(None, text.splitlines()):
            item = json.loads(line)
            database = str(item["database"])
            if item["what"] == "schema":
                revisions[database] = int(item["revision"])
            elif item["what"] == "table":
                rows[database][str(item["name"])] = int(item["rows"])
            else:
                rows[database] = {}
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"its rows can't be read ({error}): {text[:200]!r}", host=host) from error
    if not rows:
        raise NoDataError("no database was counted", host=host)
    return Rows(rows, revisions)


class WalArchive:
    """The archive as one database host reads it, as the owner of its cluster.

    Args:
        environment: The environment; it has a policy for backups.
        session: The database host, logged in by `database.ssh_conn_id`.

    Every method may raise HostUnreachableError and RemoteCommandError.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        policy = environment.policies.backup
        if policy is None:
            raise ValueError(f"environment {environment.name} has no policy for backups")
        self._policy, self._environment, self._session = policy, environment, session
        database = environment.database
        version = str(database.major_version)
        self._config, self._work_dir = session.host.path(policy.config_file), session.host.path(policy.work_dir)
        self._bin = f"/usr/lib/postgresql/{version}/bin"
        self._data = session.host.path(database.data_dir.replace("{version}", version))
        self._server = [self._bin, session.host.path(database.socket_dir), str(database.port)]
        self._state_dir = session.host.path(database.state_dir)

    def listing(self) -> ArchivedWal:
        """The segments in the repository. Raises NoDataError."""
        argv = self._argv("repo-ls", "--recurse", f"archive/{self._policy.stanza}")
        text = self._session.run(argv, timeout_seconds=READ_TIMEOUT_SECONDS).stdout
        return parse_listing(text, self._session.host.name)

    def history(self, archive: ArchivedWal, timeline: int) -> tuple[Branch, ...]:
        """A timeline's way from the first one. Raises NoDataError when its history is not archived."""
        if timeline == 1:
            return parse_history(1, "")
        if timeline not in archive.timelines:
            known = ", ".join(str(each) for each in sorted({1, *archive.timelines}))
            raise NoDataError(
                f"the repository has no history of timeline {timeline}; it has {known}", host=self._session.host.name
            )
        file = f"archive/{self._policy.stanza}/{archive.archive_id}/{timeline:08X}.history"
        text = self._session.run(self._argv("repo-get", file), timeout_seconds=READ_TIMEOUT_SECONDS).stdout
        return parse_history(timeline, text)

    def mark(self, fence: Fence, name: str = "") -> str:
        """Write a commit into the primary's WAL, after a restore point of this name, if any. Returns its position."""
        arguments = [*fence.arguments(self._state_dir), *self._server, name or "-"]
        return self._session.run_script("archive_mark", arguments).stdout.strip()

    def start_scan(self, job: str, segments: Sequence[str], mode: str, xid: int | None = None) -> str:
        """Start reading archived WAL, detached; modes are "end", "points" and "xid". See the script."""
        how = [self._bin, mode, "-" if xid is None else str(xid), str(self._policy.timeout_seconds)]
        arguments = [self._work_dir, job, self._config, self._policy.stanza, *how]
        return self._session.run_script(
            "archive_scan_start", arguments, stdin="\n".join([*segments, ""])
        ).stdout.strip()

    def status(self, job: str) -> JobStatus:
        """How a job stands."""
        text = self._session.run_script("dump_status", [self._work_dir, job]).stdout
        return parse_job_status(text, self._session.host.name)

    def found(self, job: str) -> list[WalEnd | RestorePoint | TransactionEnd]:
        """What a scan that is done has found."""
        text = self._session.run_script("file_read", [f"{self._work_dir}/{job}/found.jsonl"]).stdout
        return parse_found(text, self._session.host.name)

    def clock(self) -> HostClock:
        """The host's clock against this worker's."""
        return read_clock(self._session)

    def room(self) -> Room:
        """Free space on the host."""
        text = self._session.run_script("recovery_host_state", [self._work_dir, self._data]).stdout
        return parse_room(text, self._session.host.name)

    def rows(self, socket_dir: str = "", port: int = 5432, database: str = "") -> Rows:
        """The rows of every table, of one database or of all: of the host's server, or of another one by its socket."""
        server = [self._bin, socket_dir, str(port)] if socket_dir else self._server
        seconds = self._policy.timeout_seconds
        arguments = [*server, str(seconds * 1000), *([database] if database else [])]
        result = self._session.run_script("database_rows", arguments, timeout_seconds=float(seconds))
        return parse_rows(result.stdout, self._session.host.name)

    def _argv(self, command: str, *arguments: str) -> list[str]:
        return ["pgbackrest", f"--config={self._config}", f"--stanza={self._policy.stanza}", command, *arguments]
