"""Prepares the metadata database: schema, roles, users. Idempotent.

Runs as an own process (``python -m lab.airflow.metadata USERS_FILE``) with ``AIRFLOW_HOME`` set, because
importing Airflow configures it for good, and in one process, because importing it takes seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.airflow.users import ROLES, load_or_create_users

if TYPE_CHECKING:
    from lab.airflow.users import User


def prepare(users_file: Path) -> None:
    """Migrate the schema, then make the roles and users what ``users.py`` says."""
    from airflow.utils import db
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    users = load_or_create_users(users_file)
    providers_configuration_loaded(db.upgradedb)()
    providers_configuration_loaded(_prepare_access)(users)


def _prepare_access(users: dict[str, User]) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager: Any = builder.sm
        manager.sync_roles()
        manager.bulk_sync_roles([{"role": name, "perms": permissions} for name, permissions in ROLES.items()])
        for user in users.values():
            _prepare_user(manager, user)


def _prepare_user(manager: Any, user: User) -> None:
    existing = manager.find_user(username=user.username)
    if existing is None:
        manager.add_user(
            username=user.username,
            first_name=user.username.capitalize(),
            last_name="of the lab",
            email=f"{user.username}@lab.sebenza.example",
            role=manager.find_role(user.role),
            password=user.password,
        )
    elif not manager.check_password(user.username, user.password):
        manager.reset_password(existing.id, user.password)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
