"""Copies of a database beside it, for tests that must not touch the real one. Removed afterwards, or found later."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sebenza_ops.environments.models import Database, Environment, Host, Role
from sebenza_ops.systems.database_dump import DatabaseLogin
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import HostSession, open_session

log = logging.getLogger(__name__)

# PostgreSQL cuts names after 63 bytes; the ending takes 27.
LONGEST_DATABASE_NAME = 36
# Copying, testing and removing are each bounded by the test's time: what is older belongs to nobody.
STALE_FACTOR = 3


def scratch_name(database: str, now: float) -> str:
    """A new name for a copy. Raises ValueError for a database whose name leaves no room."""
    if len(database) > LONGEST_DATABASE_NAME:
        raise ValueError(f"the name of database {database} is too long to make copies of it beside it")
    return f"{database}_mtest_{int(now)}_{secrets.token_hex(4)}"


@contextmanager
def scratch_database(environment: Environment, timeout_seconds: float) -> Iterator[str]:
    """A copy of the environment's database, by name; removed afterwards, whatever happened.

    Raises OutsideSystemError when no database host can make it. That it can't be removed is left to the next test.
    """
    database = environment.database
    login = DatabaseLogin.from_connection(database.conn_id)
    name = scratch_name(database.name, time.time())
    host = _host(environment)
    with open_session(host, environment.ssh_conn_id) as session:
        try:
            _clone(environment, session, login, name, timeout_seconds)
            yield name
        finally:
            _drop(environment, session, login, name)


def _clone(
    environment: Environment, session: HostSession, login: DatabaseLogin, name: str, timeout_seconds: float
) -> None:
    database = environment.database
    arguments = [
        session.host.path(environment.policies.backup_before_change.work_dir),
        str(database.major_version),
        *_address(database, login),
        name,
        str(int(timeout_seconds * STALE_FACTOR)),
    ]
    session.run_script("scratch_clone", arguments, stdin=f"{login.password}\n", timeout_seconds=timeout_seconds)


def _drop(environment: Environment, session: HostSession, login: DatabaseLogin, name: str) -> None:
    database = environment.database
    arguments = [str(database.major_version), *_address(database, login), name]
    try:
        session.run_script("scratch_drop", arguments, stdin=f"{login.password}\n", timeout_seconds=60)
    except OutsideSystemError as error:
        # What the test found stays true; the next one finds the copy.
        log.warning("the copy %s is left for the next test to remove: %s", name, error)


def _address(database: Database, login: DatabaseLogin) -> list[str]:
    return [database.endpoint_host, str(database.endpoint_port), login.user, database.name]


def _host(environment: Environment) -> Host:
    """The first database host that answers."""
    reasons = []
    for host in environment.hosts_with_role(Role.DATABASE):
        try:
            with open_session(host, environment.ssh_conn_id):
                return host
        except OutsideSystemError as error:
            reasons.append(str(error))
    reason = "; ".join(reasons) or "the inventory has no database host"
    raise OutsideSystemError(f"no database host can copy the database: {reason}", host=environment.name)
