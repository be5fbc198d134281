"""Prepares the metadata database: schema, roles, users. Idempotent.

Runs in a process of its own with ``AIRFLOW_HOME`` set, because importing Airflow configures it for good.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sebenza_ops.installation.roles import ROLES, pipeline_permissions


@dataclass(frozen=True)
class User:
    """Somebody who may log in.

    Args:
        username: The name.
        role: A key of `roles.ROLES`, or a role of Airflow's.
        password: In clear; kept as a hash.
    """

    username: str
    role: str
    password: str


class UsersFileError(ValueError):
    """The users file can't be used; the message says what is expected."""


def read_users(path: Path) -> list[User]:
    """The users of a file: a JSON list of objects with username, role and password.

    Raises UsersFileError, which never repeats what the file says.
    """
    try:
        return [
            User(str(row["username"]), str(row["role"]), str(row["password"])) for row in json.loads(path.read_text())
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsersFileError(
            f"{path}: expected a JSON list of objects with username, role and password ({type(error).__name__})"
        ) from None


def prepare_metadata(users: Iterable[User], dag_ids: Iterable[str] = (), *, keep_passwords: bool) -> None:
    """Migrate the schema, then make the roles what `roles.py` says, and the users that are not there.

    Args:
        users: Who shall be able to log in.
        dag_ids: The DAGs that there are; a pipeline gets its rights on some of them.
        keep_passwords: Leave the password of a user who exists as that user has set it.
    """
    from airflow.utils import db
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    providers_configuration_loaded(db.upgradedb)()
    providers_configuration_loaded(_prepare_access)(list(users), list(dag_ids), keep_passwords)


def _prepare_access(users: list[User], dag_ids: list[str], keep_passwords: bool) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager: Any = builder.sm
        manager.sync_roles()
        roles = ROLES | {"Pipeline": sorted(pipeline_permissions(dag_ids))}
        manager.bulk_sync_roles([{"role": name, "perms": permissions} for name, permissions in roles.items()])
        for user in users:
            _prepare_user(manager, user, keep_passwords)


def _prepare_user(manager: Any, user: User, keep_password: bool) -> None:
    existing = manager.find_user(username=user.username)
    if existing is None:
        role = manager.find_role(user.role)
        if role is None:
            raise UsersFileError(f"user {user.username}: there is no role {user.role!r}")
        manager.add_user(
            username=user.username,
            first_name=user.username.capitalize(),
            last_name="of Sebenza Ops",
            email=f"{user.username}@sebenza.example",
            role=role,
            password=user.password,
        )
    elif not keep_password and not manager.check_password(user.username, user.password):
        manager.reset_password(existing.id, user.password)
