"""The four users of the lab's Airflow; what their roles may do is in `sebenza_ops/installation/roles.py`."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from lab.airflow.settings import write_private
from sebenza_ops.installation.metadata import User

_USERS = {"operator": "Operator", "approver": "Approver", "admin": "Admin", "ci": "Pipeline"}


def load_or_create_users(path: Path) -> dict[str, User]:
    """Read the users, or generate their passwords when the file isn't there yet."""
    if path.exists():
        rows = json.loads(path.read_text())
    else:
        rows = [
            {"username": name, "role": role, "password": secrets.token_urlsafe(12)} for name, role in _USERS.items()
        ]
        write_private(path, json.dumps(rows, indent=2) + "\n")
    return {row["username"]: User(**row) for row in rows}
