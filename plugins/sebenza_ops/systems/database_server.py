"""A PostgreSQL server of a pair: what it is, and its steps from primary to replica and back.

Everything is done on its own host, as the owner of the cluster. Positions in the WAL are bytes (PostgreSQL's pg_lsn
counts them too); `lsn_text` writes one as PostgreSQL does.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import Fence, HostSession

# A promotion that comes later than this is not carried out. Clocks may differ by a few seconds.
COMMAND_LIFETIME_SECONDS = 15
# PostgreSQL's default wal_segment_size.
SEGMENT_BYTES = 16 * 1024 * 1024
CLEAN_ENDS = frozenset({"shut down", "shut down in recovery"})


def lsn_text(lsn: int) -> str:
    """A position in the WAL as PostgreSQL writes it: 0/3000060."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """A position in the WAL as a number of bytes. Raises ValueError."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def segment_name(timeline: int, lsn: int) -> str:
    """The name of the WAL file that holds a position (PostgreSQL, XLogFileName)."""
    number, per_file = lsn // SEGMENT_BYTES, 2**32 // SEGMENT_BYTES
    return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"


@dataclass(frozen=True)
class Sender:
    """A replica that a server streams to: its slot, its state, and how far it has come."""

    slot: str | None
    state: str
    flushed: int
    replayed: int


@dataclass(frozen=True)
class ServerState:
    """A server at one moment.

    Attributes:
        host: Its host's name.
        running: "yes", "no", or "unresponsive": a process that does not answer, or not yet.
        detail: Why it is unresponsive.
        has_signal: It starts as a replica (standby.signal).
        control_state: How its control file says it is, for example "shut down".
        checkpoint_lsn: The last checkpoint in its control file; of one that was shut down, its last record.
        system_identifier: The cluster; servers of a pair have the same.
        timeline: The history that it writes or follows.
        lsn: What it has written, or replayed.
        receive_lsn: What a replica has received, and may not have replayed yet.
        last_commit_at: When the last transaction that a replica has replayed was committed, in epoch seconds.
        receiver: Whom a replica streams from: status, host, slot; None when from nobody.
    """

    host: str
    running: str
    detail: str
    has_signal: bool
    control_state: str
    checkpoint_lsn: int
    system_identifier: str
    timeline: int
    in_recovery: bool | None = None
    lsn: int = 0
    receive_lsn: int | None = None
    last_commit_at: float | None = None
    replay_paused: bool = False
    receiver: Mapping[str, str] | None = None
    senders: tuple[Sender, ...] = ()
    slots: Mapping[str, bool] = field(default_factory=dict)
    clients: int = 0
    synchronous: str = ""
    size_bytes: int = 0
    rewindable: bool = False
    tablespaces: int = 0
    now: float = 0.0

    @property
    def is_primary(self) -> bool:
        """Whether it takes writes."""
        return self.running == "yes" and self.in_recovery is False

    @property
    def is_standby(self) -> bool:
        """Whether it answers and is in recovery."""
        return self.running == "yes" and self.in_recovery is True

    @property
    def is_streaming(self) -> bool:
        """Whether it is a replica that receives."""
        return self.is_standby and self.receiver is not None and self.receiver.get("status") == "streaming"

    @property
    def words(self) -> str:
        """In words."""
        if self.is_primary:
            return f"a primary on timeline {self.timeline} at {lsn_text(self.lsn)}"
        if self.is_standby:
            source = f", streaming from {self.receiver['host']}" if self.is_streaming and self.receiver else ""
            return f"a replica on timeline {self.timeline} at {lsn_text(self.lsn)}{source}"
        if self.running == "unresponsive":
            return f"running, but it does not answer ({self.detail.strip()})"
        return f"down ({self.control_state})"


def parse_server_state(text: str, host: str) -> ServerState:
    """The output of include/hosts/database_server_state.sh. Raises NoDataError when it is none."""
    first, _, rest = text.partition("\n")
    signal, _, control_text = rest.partition("\n")
    running, _, detail = first.partition(" ")
    control = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in control_text.splitlines())
    }
    try:
        if running not in {"yes", "no", "unresponsive"} or signal not in {"signal", "-"}:
            raise ValueError(f"unexpected first lines {first[:100]!r}, {signal[:20]!r}")
        values: dict[str, Any] = {
            "host": host,
            "running": running,
            "detail": detail if running == "unresponsive" else "",
            "has_signal": signal == "signal",
            "control_state": control["Database cluster state"],
            "checkpoint_lsn": parse_lsn(control["Latest checkpoint location"]),
            "system_identifier": control["Database system identifier"],
            "timeline": int(control["Latest checkpoint's TimeLineID"]),
            "rewindable": control["wal_log_hints setting"] == "on" or control["Data page checksum version"] != "0",
        }
        if running == "yes":
            found = json.loads(detail)
            values |= {key: found[key] for key in found if key not in {"senders", "lsn", "receive_lsn"}}
            values |= {
                "lsn": int(found["lsn"] or 0),
                "receive_lsn": None if found["receive_lsn"] is None else int(found["receive_lsn"]),
                "size_bytes": int(found["size_bytes"]),
                "senders": tuple(
                    Sender(each["slot"], str(each["state"]), int(each["flushed"] or 0), int(each["replayed"] or 0))
                    for each in found["senders"]
                ),
            }
        return ServerState(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"what its PostgreSQL is can't be read ({error}): {text[:200]!r}", host=host) from error


@dataclass(frozen=True)
class WalEnd:
    """What a server that is down has in its WAL beyond a position: where it ends, and the commits in between."""

    end_lsn: int
    commits: int
    first_commit_at: datetime | None = None
    last_commit_at: datetime | None = None


def parse_wal_end(text: str, host: str) -> WalEnd:
    """The output of include/hosts/database_wal_end.sh. Raises NoDataError when it can't be told."""
    words = text.strip().split(" ", 2)
    try:
        if len(words) != 3 or words[0] == "unknown":
            raise ValueError("it does not tell")
        moments = [_moment(part) for part in words[2].split("|")]
        return WalEnd(parse_lsn(words[0]), int(words[1]), *moments)
    except (ValueError, TypeError) as error:
        raise NoDataError(f"the end of its WAL can't be told ({error}): {text.strip()[:300]}", host=host) from error


def _moment(text: str) -> datetime | None:
    found = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", text)
    return datetime.fromisoformat(found.group()).replace(tzinfo=UTC) if found else None


@dataclass(frozen=True)
class Stopped:
    """How a server has stopped: whether it has, the sessions that were broken off, and where its last record begins."""

    has_stopped: bool
    broken_off: int
    last_record: int | None


@dataclass(frozen=True)
class Promoted:
    """A primary's timeline, and the position up to which it had replayed; "-" when it was one already."""

    timeline: int
    replayed: str


@dataclass(frozen=True)
class RebuildStatus:
    """How a rebuild stands: "done", "failed", "running" or "absent"; how it was made, and what was kept of before."""

    state: str
    method: str = ""
    seconds: float = 0.0
    kept: str = ""
    log_tail: str = ""


def parse_rebuild_status(text: str, host: str) -> RebuildStatus:
    """The output of include/hosts/dump_status.sh about a rebuild. Raises NoDataError when it is none."""
    state, _, rest = text.partition("\n")
    if state not in {"done", "failed", "running", "absent"}:
        raise NoDataError(f"the state of the rebuild can't be read: {text[:200]!r}", host=host)
    if state != "done":
        return RebuildStatus(state, log_tail=rest.strip())
    try:
        found = json.loads(rest)
        return RebuildStatus(state, str(found["method"]), float(found["seconds"]), str(found["kept"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the result of the rebuild can't be read ({error}): {rest[:200]!r}", host=host) from error


class DatabaseServer:
    """The server on one database host.

    Args:
        environment: Its environment.
        session: A session of the host, as the owner of the cluster (`database.ssh_conn_id`).

    Every method may raise HostUnreachableError and RemoteCommandError; those that change something also
    FencedOffError, when a later change holds the host.
    """

    def __init__(self, environment: Environment, session: HostSession) -> None:
        self._environment, self._session = environment, session
        database, host = environment.database, session.host
        version = str(database.major_version)
        self._bin = f"/usr/lib/postgresql/{version}/bin"
        self._data = host.path(database.data_dir.replace("{version}", version))
        self._config = host.path(database.config_file.replace("{version}", version))
        self._socket, self._port = host.path(database.socket_dir), str(database.port)
        self._state_dir = host.path(database.state_dir)

    @property
    def name(self) -> str:
        """The host's name."""
        return self._session.host.name

    def state(self) -> ServerState:
        """What it is now. Raises NoDataError."""
        arguments = [self._bin, self._data, self._socket, self._port]
        return parse_server_state(
            self._session.run_script("database_server_state", arguments, timeout_seconds=15).stdout, self.name
        )

    def checkpoint(self, fence: Fence, rewind_role: str = "", follower: str = "") -> None:
        """Write a checkpoint; `rewind_role` may then rewind a former primary to this one, and `follower` has a slot."""
        slot = self._environment.database.slot_of(follower) if follower else "-"
        arguments = [*self._fenced(fence), self._bin, self._socket, self._port, rewind_role or "-", slot]
        self._session.run_script("database_checkpoint", arguments, timeout_seconds=300)

    def demote(
        self, fence: Fence, source: str = "", login: DatabaseLogin | None = None, *, has_slot: bool = True
    ) -> None:
        """From its next start on it is a replica: of the host at the address `source`, or of nobody yet."""
        place = ["-", "-", "-", "-"]
        if source and login is not None:
            slot = self._environment.database.slot_of(self.name) if has_slot else "-"
            place = [source, self._port, login.user, slot]
        stdin = f"{login.password}\n" if login is not None else "\n"
        self._session.run_script("database_demote", [*self._fenced(fence), self._data, *place], stdin=stdin)

    def undemote(self, fence: Fence) -> None:
        """From its next start on it is a primary."""
        self._session.run_script("database_undemote", [*self._fenced(fence), self._data])

    def stop(self, fence: Fence, drain_milliseconds: int, timeout_seconds: int) -> Stopped:
        """End sessions as they become idle, then stop the process. Its manager may start it again, as a replica."""
        arguments = [*self._fenced(fence), self._bin, self._data, self._socket, self._port]
        result = self._session.run_script(
            "database_stop",
            [*arguments, str(drain_milliseconds), str(timeout_seconds)],
            timeout_seconds=drain_milliseconds / 1000 + timeout_seconds + 15,
        )
        try:
            broken_off, state, end = result.stdout.split()
            return Stopped(
                has_stopped=state == "stopped",
                broken_off=int(broken_off) if broken_off != "-" else 0,
                last_record=parse_lsn(end) if end != "-" else None,
            )
        except ValueError as error:
            raise NoDataError(f"how it has stopped can't be read: {result.stdout[:200]!r}", host=self.name) from error

    def promote(
        self, fence: Fence, system_identifier: str, timeline: int, minimum_lsn: int, follower: str, timeout_seconds: int
    ) -> Promoted:
        """Make the replica the primary, with a slot for `follower`, if there is one. It may be one already."""
        arguments = [
            *self._fenced(fence),
            self._bin,
            self._socket,
            self._port,
            system_identifier,
            str(timeline),
            str(minimum_lsn),
            self._environment.database.slot_of(follower) if follower else "-",
            str(int(time.time()) + COMMAND_LIFETIME_SECONDS),
            str(timeout_seconds),
        ]
        said = self._session.run_script("database_promote", arguments, timeout_seconds=timeout_seconds + 40).stdout
        try:
            _, found, position = said.split()
            return Promoted(int(found), position)
        except ValueError as error:
            raise NoDataError(f"what the promotion said can't be read: {said[:200]!r}", host=self.name) from error

    def wal_end(self, timeline: int, from_lsn: int) -> WalEnd:
        """What it has beyond a position; of a server that is down. Raises NoDataError when that can't be told."""
        arguments = [self._bin, self._data, str(timeline), lsn_text(from_lsn)]
        return parse_wal_end(
            self._session.run_script("database_wal_end", arguments, timeout_seconds=40).stdout, self.name
        )

    def start_rebuild(
        self,
        fence: Fence,
        job: str,
        source: str,
        login: DatabaseLogin,
        *,
        fork_segment: str,
        need_bytes: int,
        rewind: bool,
    ) -> str:
        """Start rewinding or copying from the primary at `source`, detached. Returns "started", "running", "done"."""
        policy = self._environment.policies.database_switch
        arguments = [
            *self._fenced(fence),
            job,
            self._bin,
            self._data,
            self._config,
            source,
            self._port,
            login.user,
            self._environment.database.slot_of(self.name),
            fork_segment or "-",
            str(need_bytes // 1024),
            "rewind" if rewind else "copy",
            str(policy.rebuild_timeout_seconds if policy is not None else 3600),
        ]
        return self._session.run_script("database_rebuild", arguments, stdin=f"{login.password}\n").stdout.strip()

    def rebuild_status(self, job: str) -> RebuildStatus:
        """How the rebuild stands."""
        text = self._session.run_script("dump_status", [f"{self._state_dir}/jobs", job]).stdout
        return parse_rebuild_status(text, self.name)

    def drop_slot(self, fence: Fence, follower: str) -> str:
        """Drop the slot of a host that does not follow this one. Returns "dropped", "absent" or "active"."""
        slot = self._environment.database.slot_of(follower)
        arguments = [*self._fenced(fence), self._bin, self._socket, self._port, slot]
        return self._session.run_script("database_slot_drop", arguments).stdout.strip()

    def write_canary(self, login: DatabaseLogin, table: str, token: str) -> str:
        """Write a row as the application, through the endpoint. Returns the address of the server that took it."""
        said = self._canary("write", login, table, token)
        if not said:
            raise OutsideSystemError("the canary was written, but no server says that it took it", host=self.name)
        return said

    def drop_canary(self, login: DatabaseLogin, table: str) -> None:
        """Remove the canary's table, through the endpoint."""
        self._canary("drop", login, table, "-")

    def has_canary(self, table: str, token: str, timeout_seconds: int) -> bool:
        """Whether this very server has the row, within a time."""
        arguments = [self._bin, self._socket, self._port, self._environment.database.name, table, token]
        result = self._session.run_script(
            "database_canary_read", [*arguments, str(timeout_seconds)], timeout_seconds=timeout_seconds + 15
        )
        return result.stdout.strip() == "yes"

    def raise_token(self, fence: Fence) -> None:
        """Make the host refuse lower tokens."""
        self._session.run_script("fence_raise", self._fenced(fence))

    def _canary(self, what: str, login: DatabaseLogin, table: str, token: str) -> str:
        database = self._environment.database
        place = [self._bin, database.endpoint_host, str(database.endpoint_port), login.user, database.name]
        result = self._session.run_script(
            "database_canary", [what, *place, table, token], stdin=f"{login.password}\n", timeout_seconds=40
        )
        return result.stdout.strip()

    def _fenced(self, fence: Fence) -> list[str]:
        return fence.arguments(self._state_dir)
