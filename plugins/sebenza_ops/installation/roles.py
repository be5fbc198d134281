"""What each role may do.

The roles are narrow on purpose: whoever starts a deployment can't approve it, and a
pipeline can start deployments and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

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
ROLES: Final[dict[str, list[tuple[str, str]]]] = {
    "Operator": [
        *_VIEW_ALL,
        (EDIT, "DAGs"),
        (CREATE, "DAG Runs"),
        (EDIT, "DAG Runs"),
        (CREATE, "Task Instances"),
        (EDIT, "Task Instances"),
    ],
    "Approver": [*_VIEW_ALL, (EDIT, "DAGs"), (EDIT, "HITL Detail")],
    # Rights on single DAGs are added when the DAGs are known: see pipeline_permissions.
    "Pipeline": [*_VIEW],
}

#: What the names of the procedures begin with that a pipeline may start.
PIPELINE_PREFIXES: Final = ("build_release", "deploy_")


def pipeline_permissions(dag_ids: Iterable[str]) -> set[tuple[str, str]]:
    """What the pipeline's role may do, where these DAGs are: start builds and deployments, and nothing else.

    Airflow names rights on one DAG ``DAG:<id>`` and ``DAG Run:<id>``.
    """
    single = {
        (action, f"{prefix}:{dag_id}")
        for dag_id in dag_ids
        if dag_id.startswith(PIPELINE_PREFIXES)
        for action, prefix in ((READ, "DAG"), (EDIT, "DAG"), (READ, "DAG Run"), (CREATE, "DAG Run"))
    }
    return single | set(ROLES["Pipeline"])
