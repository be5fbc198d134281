"""Changing the database's schema on behalf of a run, and reading what it really has."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.reconcile import ApplicationHostStates
from sebenza_ops.environments.models import Color, Environment, Role
from sebenza_ops.systems.application_hosts import ApplicationHost, ApplicationHostState
from sebenza_ops.systems.application_migrations import (
    ApplicationMigrations,
    AppliedMigration,
    HalfAppliedError,
    KnownMigration,
    LockConflictError,
    Phase,
)
from sebenza_ops.systems.errors import NoDataError, OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, on_hosts, open_session


class SchemaChangeError(Exception):
    """The schema could not be changed, and trying again at once will not help. The message says what to do."""


@dataclass(frozen=True)
class DatabaseSchema:
    """What the database really has, by its own record: the migrations in it, half-applied ones included."""

    migrations: tuple[KnownMigration, ...]

    @property
    def revision(self) -> int:
        """The highest number that was applied; 0 for an empty database."""
        return max((migration.number for migration in self.migrations if migration.is_applied), default=0)

    @property
    def contract_revisions(self) -> frozenset[int]:
        """Numbers of the contract migrations that were applied, or begun: what needed the old schema can't run."""
        return frozenset(
            migration.number
            for migration in self.migrations
            if migration.phase == "contract" and migration.state != "pending"
        )

    @property
    def half_applied(self) -> tuple[KnownMigration, ...]:
        """Migrations that were begun and never finished."""
        return tuple(migration for migration in self.migrations if migration.state == "half-applied")


def expand_schema(run: ChangeRun, host_name: str, color: Color, release_id: str) -> None:
    """Run a release's expand migrations; see `apply_migrations`."""
    apply_migrations(run, host_name, color, release_id, "expand")


def apply_migrations(
    run: ChangeRun,
    host_name: str,
    color: Color,
    release_id: str,
    phase: Phase,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[AppliedMigration, ...]:
    """Run the pending migrations of one phase on a host where the release is configured for the color.

    A lock that is not to be had is tried again, as often as the environment's policy allows.

    Raises:
        SchemaChangeError: No lock after all attempts, or a half-applied migration that needs a person.
        OutsideSystemError: A migration failed, or the host did.
    """
    environment, policy = run.environment, run.environment.policies.migrations
    host = environment.host(host_name)
    done: tuple[AppliedMigration, ...] = ()
    for attempt in range(1, policy.lock_attempts + 1):
        try:
            with open_session(host, environment.ssh_conn_id) as session:
                application_host = ApplicationHost(environment, session)
                done += ApplicationMigrations(application_host, release_id, color).up(run.fence, phase)
            break
        except LockConflictError as error:
            run.note(f"attempt {attempt} of {policy.lock_attempts}: {error}", "warning", host=host_name)
            if attempt == policy.lock_attempts:
                raise SchemaChangeError(
                    f"no lock in {policy.lock_attempts} attempts: {error}. Let the named sessions end, or end them "
                    "(SELECT pg_terminate_backend(<pid>)), then start a new run."
                ) from error
            sleep(policy.attempt_pause_seconds)
        except HalfAppliedError as error:
            raise SchemaChangeError(str(error)) from error
    for migration in done:
        word = "gone on with and finished" if migration.resumed else "applied"
        run.note(
            f"{phase} migration {migration.number} ({migration.name}) {word} in {migration.seconds:.2f} s",
            host=host_name,
        )
    if not done:
        run.note(f"no {phase} migration was pending", host=host_name)
    return done


def read_schema(environment: Environment, hosts: ApplicationHostStates | None = None) -> DatabaseSchema:
    """What the database really has, asked through a release on an application host.

    Through the application and not by SQL from here: it needs no way to the database and no password on the worker,
    asks where the releases really look, and knows no table of the application's. Any release of the application will
    do, as the record is the database's own.

    Args:
        environment: The environment.
        hosts: State of its application hosts, where it is known; they are asked otherwise.

    Raises:
        NoDataError: No host could tell; the message has each host's reason.
    """
    application_hosts = environment.hosts_with_role(Role.APPLICATION)
    states = hosts or on_hosts(
        application_hosts, environment.ssh_conn_id, lambda session: ApplicationHost(environment, session).state()
    )
    reasons = []
    for host in application_hosts:
        state = states.get(host.name)
        if not isinstance(state, ApplicationHostState):
            reasons.append(str(state or f"{host.name}: its state is not known"))
            continue
        for release_id, color in _configured(environment, state):

            def ask(session: HostSession, release: str = release_id, of: Color = color) -> tuple[KnownMigration, ...]:
                return ApplicationMigrations(ApplicationHost(environment, session), release, of).status()

            answer = on_hosts([host], environment.ssh_conn_id, ask)[host.name]
            if not isinstance(answer, OutsideSystemError):
                return DatabaseSchema(tuple(found for found in answer if found.state != "pending"))
            reasons.append(str(answer))
    raise NoDataError(
        f"no application host tells what schema the database has: {'; '.join(reasons) or 'no release runs'}",
        host=environment.name,
    )


def _configured(environment: Environment, state: ApplicationHostState) -> list[tuple[str, Color]]:
    """Releases on the host with a color whose settings lead to the database; those that run first."""
    running = [(state.release_of(environment.application.process_name(color)), color) for color in Color]
    found = [(release, color) for release, color in running if release is not None]
    # With nothing running, an installed release and the settings of its last color still know the way.
    return found or [(release, color) for release in state.releases[:1] for color in Color]
