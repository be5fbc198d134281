"""The application's migrations: run and asked for through its own `bin/migrate.js`, on an application host.

The release knows its migrations and the way to its database; the tool knows neither a password nor the table in which
the application keeps what was applied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sebenza_ops.environments.models import Color
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.errors import NoDataError, RemoteCommandError
from sebenza_ops.systems.ssh import Fence

# Exit statuses of migrate.js.
EXIT_LOCK_CONFLICT = 4
EXIT_HALF_APPLIED = 5
STATUS_TIMEOUT_SECONDS = 30.0

Phase = Literal["expand", "contract"]
Parsed = TypeVar("Parsed")


class LockConflictError(RemoteCommandError):
    """A migration could not get a lock; the schema is as before. The message names the sessions that hold it."""


class HalfAppliedError(RemoteCommandError):
    """A migration was interrupted and can't be gone on with by itself. The message says what to look at."""


@dataclass(frozen=True)
class AppliedMigration:
    """A migration that was just applied, or gone on with; `locks` as "mode relation", when they were asked for."""

    number: int
    name: str
    phase: Phase
    seconds: float
    locks: tuple[str, ...] = ()
    resumed: bool = False


@dataclass(frozen=True)
class KnownMigration:
    """A migration of a release or of its database.

    `state` is "pending", "applied", "half-applied", "changed" (the release has it with another text) or "foreign"
    (applied, and not the release's).
    """

    number: int
    name: str
    phase: Phase
    state: str

    @property
    def is_applied(self) -> bool:
        """Whether the database has it."""
        return self.state in {"applied", "changed", "foreign"}


def parse_applied(host: str, text: str) -> tuple[AppliedMigration, ...]:
    """What `migrate.js --json up` prints. Raises NoDataError when it can't be read."""
    return _parse(
        host,
        text,
        lambda item: AppliedMigration(
            number=int(item["number"]),
            name=str(item["name"]),
            phase=_phase(item["phase"]),
            seconds=float(item["seconds"]),
            locks=tuple(str(lock) for lock in item.get("locks") or ()),
            resumed=item.get("state") == "resumed",
        ),
    )


def parse_known(host: str, text: str) -> tuple[KnownMigration, ...]:
    """What `migrate.js --json status` prints. Raises NoDataError when it can't be read."""
    return _parse(
        host,
        text,
        lambda item: KnownMigration(int(item["number"]), str(item["name"]), _phase(item["phase"]), str(item["state"])),
    )


def _phase(value: object) -> Phase:
    if value == "expand":
        return "expand"
    if value == "contract":
        return "contract"
    raise ValueError(f"{value!r} is no phase")


def _parse(host: str, text: str, make: Callable[[dict[str, Any]], Parsed]) -> tuple[Parsed, ...]:
    try:
        return tuple(make(item) for item in json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise NoDataError(f"the migrations could not be read ({error}): {text.strip()[:200]!r}", host=host) from error


class ApplicationMigrations:
    """A release's migrations, on a host where it is installed and configured for a color."""

    def __init__(self, host: ApplicationHost, release_id: str, color: Color) -> None:
        self._host = host
        self._release_dir = host.release_dir(release_id)
        self._env_file = host.env_file(color)

    def status(self) -> tuple[KnownMigration, ...]:
        """The migrations of the release and of its database. Changes nothing."""
        arguments = [self._release_dir, self._env_file, self._host.environment.application.node_bin_dir]
        session = self._host.session
        result = session.run_script("app_migration_status", arguments, timeout_seconds=STATUS_TIMEOUT_SECONDS)
        return parse_known(session.host.name, result.stdout)

    def up(self, fence: Fence, phase: Phase) -> tuple[AppliedMigration, ...]:
        """Apply the pending migrations of a phase, by the environment's time limits.

        Raises:
            LockConflictError: Somebody else held a lock for too long. Another attempt may succeed.
            HalfAppliedError: An earlier migration was interrupted and needs a person.
            RemoteCommandError: A migration failed.
        """
        environment, session = self._host.environment, self._host.session
        policy = environment.policies.migrations
        arguments = [
            *self._host.fenced(fence),
            self._release_dir,
            self._env_file,
            environment.application.node_bin_dir,
            phase,
            str(policy.lock_timeout_milliseconds),
            str(policy.statement_timeout_seconds * 1000),
        ]
        try:
            result = session.run_script("app_migrate", arguments, timeout_seconds=float(policy.timeout_seconds))
        except RemoteCommandError as error:
            meant = migration_error(error)
            if meant is error:
                raise
            raise meant from error
        return parse_applied(session.host.name, result.stdout)


def migration_error(error: RemoteCommandError) -> RemoteCommandError:
    """The error by what migrate.js meant; the same one when it meant nothing in particular."""
    kinds = {EXIT_LOCK_CONFLICT: LockConflictError, EXIT_HALF_APPLIED: HalfAppliedError}
    kind = kinds.get(error.exit_status)
    if kind is None:
        return error
    said = error.stderr.strip().splitlines()
    return kind(said[-1] if said else str(error), host=error.host, exit_status=error.exit_status, stderr=error.stderr)
