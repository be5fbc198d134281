"""The four users of the lab's Airflow, and what each may do.

The roles are narrow on purpose: whoever starts a deployment can't approve it, and a
pipeline can start deployments and nothing else.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from lab.airflow.settings import write_private

# Permission names: airflow.providers.fab.www.security.permissions
READ, CREATE, EDIT, MENU = "can_read", "can_create", "can_edit", "menu_access"

_VIEW = [
    (READ, "Website"),
    (READ, "My Password"),
    (EDIT, "My Password"),
    (READ, "My Profile"),
    (EDIT, "My Profile"),
    (READ, "DAG Runs"),
    (READ, "Task Instances"),
    (READ, "Task Logs"),
    (READ, "XComs"),
    (READ, "DAG Versions"),
    (READ, "HITL Detail"),
]
_VIEW_ALL = [
    *_VIEW,
    *(
        (READ, resource)
        for resource in (
            "DAGs",
            "DAG Code",
            "DAG Dependencies",
            "DAG Warnings",
            "Assets",
            "Asset Aliases",
            "Cluster Activity",
            "Pools",
            "ImportError",
            "Jobs",
            "Plugins",
        )
    ),
    *(
        (MENU, resource)
        for resource in ("DAGs", "DAG Runs", "Browse", "Task Instances", "HITL Detail", "Assets", "Plugins")
    ),
]

#: Role name → (action, resource) pairs. Airflow asks for "edit DAGs" on top of the right proper
#: whenever something of a DAG is changed (a run started, a task cleared, a question answered).
ROLES: dict[str, list[tuple[str, str]]] = {
    "Operator": [
        *_VIEW_ALL,
        (EDIT, "DAGs"),
        (CREATE, "DAG Runs"),
        (EDIT, "DAG Runs"),
        (CREATE, "Task Instances"),
        (EDIT, "Task Instances"),
    ],
    "Approver": [*_VIEW_ALL, (EDIT, "DAGs"), (EDIT, "HITL Detail")],
    # Rights on single DAGs are added when the DAGs are known: see grant_pipeline_access.
    "Pipeline": [*_VIEW],
}


@dataclass(frozen=True)
class User:
    """A user of the local Airflow with the generated password."""

    username: str
    role: str
    password: str


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


def pipeline_permissions(dag_ids: list[str]) -> set[tuple[str, str]]:
    """What the pipeline's role may do when it may start these DAGs, and only these.

    Airflow names rights on one DAG ``DAG:<id>`` and ``DAG Run:<id>``.
    """
    single = {
        (action, f"{prefix}:{dag_id}")
        for dag_id in dag_ids
        for action, prefix in ((READ, "DAG"), (EDIT, "DAG"), (READ, "DAG Run"), (CREATE, "DAG Run"))
    }
    return single | set(ROLES["Pipeline"])
