"""A restored copy of an environment's database beside it, on the same server: made, compared, and put in its place.

Everything is done on a database host, through the address that leads to the primary; replicas follow by replication.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.database_dump import DUMP_STATES, DatabaseLogin
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.ssh import Fence, HostSession

# A command that comes later than this is not carried out. Clocks may differ by a few seconds.
COMMAND_LIFETIME_SECONDS = 10
# Sessions that are not ended by then are not going to; users are let in again.
PATIENCE_SECONDS = 20
EXIT_SESSIONS_LEFT = 3


@dataclass(frozen=True)
class TableDescription:
    """What a table holds, in the snapshot of its database's description.

    Attributes:
        name: Schema and table.
        rows: Exact number of rows.
        created: The newest moment in the column that tells when a row was made; None without such a column, or row.
        written: Rows beyond the newest of an earlier description; None when nothing tells.
        changed: Rows whose moment of change is beyond the newest of an earlier description; None when nothing tells.
        by: What tells how new a row is: a column, "all" for a table that was empty or not there, or "".
        owner: Role that owns it.
        grants: Who may do what.
    """

    name: str
    rows: int
    created: str | None
    written: int | None
    changed: int | None
    by: str
    owner: str
    grants: tuple[str, ...]


@dataclass(frozen=True)
class DatabaseDescription:
    """What a database is and holds. `at` is the moment of the snapshot; `text` is what another one is compared with."""

    oid: int
    at: str
    size_bytes: int
    properties: Mapping[str, str]
    settings: frozenset[str]
    grants: frozenset[str]
    extensions: frozenset[str]
    slots: tuple[str, ...]
    tables: Mapping[str, TableDescription]
    text: str = field(repr=False, default="")


PROPERTIES = ("owner", "encoding", "collate", "ctype", "tablespace", "connection_limit")


def parse_description(text: str, host: str) -> DatabaseDescription:
    """The output of include/hosts/database_describe.sh. Raises NoDataError when it is none."""
    database: dict[str, Any] | None = None
    tables: dict[str, TableDescription] = {}
    try:
        for line in filter(None, text.splitlines()):
            item = json.loads(line)
            if item["what"] == "database":
                database = item
                continue
            tables[str(item["name"])] = TableDescription(
                name=str(item["name"]),
                rows=int(item["rows"]),
                created=item["created"],
                written=item["written"],
                changed=item["changed"],
                by=str(item["by"]),
                owner=str(item["owner"]),
                grants=tuple(item["grants"]),
            )
        if database is None:
            raise ValueError("the database itself is missing")
        return DatabaseDescription(
            oid=int(database["oid"]),
            at=str(database["at"]),
            size_bytes=int(database["size_bytes"]),
            properties={name: str(database[name]) for name in PROPERTIES},
            settings=frozenset(database["settings"]),
            grants=frozenset(database["grants"]),
            extensions=frozenset(database["extensions"]),
            slots=tuple(database["slots"]),
            tables=tables,
            text=text,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the database's description can't be read ({error}): {text[:200]!r}", host=host) from error


@dataclass(frozen=True)
class RestoreStatus:
    """How a restore stands: "done", "failed", "running" or "absent"; the copy's oid, or the end of the log."""

    state: str
    oid: int = 0
    seconds: float = 0.0
    log_tail: str = ""


def parse_restore_status(text: str, host: str) -> RestoreStatus:
    """The output of include/hosts/dump_status.sh about a restore. Raises NoDataError when it is none."""
    state, _, rest = text.partition("\n")
    if state not in DUMP_STATES:
        raise NoDataError(f"the state of the restore can't be read: {text[:200]!r}", host=host)
    if state != "done":
        return RestoreStatus(state, log_tail=rest.strip())
    try:
        found = json.loads(rest)
        return RestoreStatus(state, oid=int(found["oid"]), seconds=float(found["seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the result of the restore can't be read ({error}): {rest[:200]!r}", host=host) from error


@dataclass(frozen=True)
class SwapResult:
    """How the exchange went: "swapped", "already" or "resumed"; the oid that has the name now; how long it took."""

    state: str
    oid: int
    interrupted_seconds: float


class DatabaseCopy:
    """The restored copy that one run makes, seen from one database host.

    Args:
        environment: The environment whose database it is.
        session: The database host.
        restored: The copy's name.
        aside: The name under which the database is kept when the copy takes its place.
    """

    def __init__(self, environment: Environment, session: HostSession, restored: str, aside: str) -> None:
        self._environment, self._session = environment, session
        self._restored, self._aside = restored, aside
        policy = environment.policies.backup_before_change
        self._place = [session.host.path(policy.work_dir), restored]
        self._timeout_seconds = policy.timeout_seconds

    @property
    def host(self) -> str:
        """The database host's name."""
        return self._session.host.name

    def start(
        self,
        login: DatabaseLogin,
        storage: ObjectStorage,
        key: str,
        sha256: str,
        size_bytes: int,
        *,
        is_foreign: bool = False,
    ) -> str:
        """Start restoring a dump into the copy, detached. Returns "started", "running" or "done".

        One of another server (`is_foreign`) comes without its owners and rights.
        """
        arguments = [
            *self._place,
            *self._server(login),
            self._environment.database.name,
            self._restored,
            sha256,
            str(size_bytes),
            str(self._timeout_seconds),
            *(["foreign"] if is_foreign else []),
        ]
        stdin = f"{login.password}\n{storage.transfer_source(key)}"
        return self._session.run_script("restore_start", arguments, stdin=stdin).stdout.strip()

    def status(self) -> RestoreStatus:
        """How it stands."""
        return parse_restore_status(self._session.run_script("dump_status", self._place).stdout, self.host)

    def discard_files(self) -> None:
        """Remove what the restore has left on the host; the copy itself stays."""
        self._session.run_script("dump_discard", self._place, timeout_seconds=120)

    def describe(self, login: DatabaseLogin, database: str, before: str = "") -> DatabaseDescription:
        """What a database of the server is and holds, in one snapshot; rows are compared with `before`."""
        result = self._session.run_script(
            "database_describe",
            [*self._server(login), database],
            stdin=f"{login.password}\n{before}",
            timeout_seconds=float(self._timeout_seconds),
        )
        return parse_description(result.stdout, self.host)

    def swap(self, login: DatabaseLogin, fence: Fence, oid: int) -> SwapResult:
        """Put the copy in the database's place, which is kept under the other name.

        Raises:
            RemoteCommandError: With exit status EXIT_SESSIONS_LEFT users were let in again, and nothing is exchanged.
        """
        expires_at = int(time.time()) + COMMAND_LIFETIME_SECONDS
        arguments = [*self._fenced(fence, login), str(oid), str(expires_at), str(PATIENCE_SECONDS)]
        # The host waits for its fence, then for sessions; it ignores the first signal of an end.
        timeout_seconds = float(PATIENCE_SECONDS + 40)
        result = self._session.run_script(
            "database_swap", arguments, stdin=f"{login.password}\n", timeout_seconds=timeout_seconds
        )
        try:
            found = json.loads(result.stdout)
            return SwapResult(str(found["state"]), int(found["oid"]), float(found["interrupted_seconds"]))
        except (KeyError, TypeError, ValueError) as error:
            raise NoDataError(
                f"what the exchange said can't be read: {result.stdout[:200]!r}", host=self.host
            ) from error

    def settle(self, login: DatabaseLogin, fence: Fence) -> tuple[bool, tuple[str, ...]]:
        """Let users in, and remove a copy that was not used. Returns whether it was exchanged, and what was done."""
        result = self._session.run_script(
            "database_settle", self._fenced(fence, login), stdin=f"{login.password}\n", timeout_seconds=120
        )
        state, *done = result.stdout.strip().splitlines() or [""]
        if state not in {"exchanged", "unchanged"}:
            raise NoDataError(f"how the databases stand can't be read: {result.stdout[:200]!r}", host=self.host)
        return state == "exchanged", tuple(done)

    def _server(self, login: DatabaseLogin) -> list[str]:
        database = self._environment.database
        return [str(database.major_version), database.endpoint_host, str(database.endpoint_port), login.user]

    def _fenced(self, fence: Fence, login: DatabaseLogin) -> list[str]:
        state_dir = self._session.host.path(self._environment.application.state_dir)
        names = [self._environment.database.name, self._restored, self._aside]
        return [*fence.arguments(state_dir), *self._server(login), *names]
