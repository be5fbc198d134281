"""Logical dumps, made on a database host: started once, found again, verified, and sent to object storage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sebenza_ops.environments.models import Environment
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.ssh import HostSession

# The dump is read back after it was sent.
UPLOAD_TIMEOUT_SECONDS = 1800.0
DUMP_STATES = frozenset({"done", "failed", "running", "absent"})


@dataclass(frozen=True)
class DumpResult:
    """A verified dump on a host: `entries` is the number of objects in its table of contents."""

    size_bytes: int
    sha256: str
    seconds: float
    entries: int
    made_with: str


@dataclass(frozen=True)
class DumpStatus:
    """How a run's dump stands: "done", "failed", "running" or "absent"; its result, or the end of its log."""

    state: str
    result: DumpResult | None = None
    log_tail: str = ""


def parse_dump_status(text: str, host: str) -> DumpStatus:
    """The output of include/hosts/dump_status.sh. Raises NoDataError when it is none."""
    state, _, rest = text.partition("\n")
    if state not in DUMP_STATES:
        raise NoDataError(f"the state of the dump can't be read: {text[:200]!r}", host=host)
    if state != "done":
        return DumpStatus(state, log_tail=rest.strip())
    try:
        found: dict[str, Any] = json.loads(rest)
        result = DumpResult(
            size_bytes=int(found["size_bytes"]),
            sha256=str(found["sha256"]),
            seconds=float(found["seconds"]),
            entries=int(found["entries"]),
            made_with=str(found["made_with"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the result of the dump can't be read ({error}): {rest[:200]!r}", host=host) from error
    return DumpStatus(state, result=result)


@dataclass(frozen=True)
class DatabaseLogin:
    """Who reads the database. The password reaches a host on standard input only."""

    user: str
    password: str

    @classmethod
    def from_connection(cls, conn_id: str) -> DatabaseLogin:
        """The login of an Airflow connection."""
        from airflow.sdk import BaseHook

        connection = BaseHook.get_connection(conn_id)
        return cls(connection.login or "", connection.password or "")

    def __repr__(self) -> str:
        return f"DatabaseLogin({self.user!r})"


class DatabaseDump:
    """One run's dump on one database host.

    Args:
        environment: The environment whose database it is.
        session: The database host.
        run_key: The run, as the name of a directory.
    """

    def __init__(self, environment: Environment, session: HostSession, run_key: str) -> None:
        self._environment, self._session = environment, session
        policy = environment.policies.backup_before_change
        self._place = [session.host.path(policy.work_dir), run_key]

    def start(self, login: DatabaseLogin) -> str:
        """Start it, detached, through the address that leads to the primary. Returns "started", "running" or "done"."""
        database = self._environment.database
        arguments = [
            *self._place,
            str(database.major_version),
            database.endpoint_host,
            str(database.endpoint_port),
            login.user,
            database.name,
            str(self._environment.policies.backup_before_change.timeout_seconds),
        ]
        return self._session.run_script("dump_start", arguments, stdin=f"{login.password}\n").stdout.strip()

    def status(self) -> DumpStatus:
        """How it stands."""
        text = self._session.run_script("dump_status", self._place).stdout
        return parse_dump_status(text, self._session.host.name)

    def upload(self, storage: ObjectStorage, key: str, sha256: str) -> None:
        """Send it and read it back. Raises RemoteCommandError when what comes back is not what was sent."""
        put_url = storage.transfer_source(key, "put_object").partition("\n")[0]
        source = f"{put_url}\n{storage.transfer_source(key)}"
        self._session.run_script(
            "dump_upload", [*self._place, sha256], stdin=source, timeout_seconds=UPLOAD_TIMEOUT_SECONDS
        )

    def discard(self) -> None:
        """Remove it from the host."""
        self._session.run_script("dump_discard", self._place, timeout_seconds=120)
