"""Who may see what: Airflow's own users and permissions. An application that a plugin mounts has no login of its own.

A page about a run needs the permission to read that DAG's runs; the overview shows an environment to whoever may
read at least one of its DAGs.
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends

__all__ = ["CanReadResults", "CanReadRun", "ReadableDagIds", "readable_dag_ids"]

CanReadRun = Depends(requires_access_dag("GET", DagAccessEntity.RUN))
"""Refuses with 401 who is not logged in, and with 403 who may not read the runs of the DAG in the path."""

CanReadResults = Depends(requires_access_dag("GET", DagAccessEntity.XCOM))
"""Refuses who may not read what the tasks of the DAG in the path return."""


def readable_dag_ids(user: GetUserDep) -> set[str]:
    """The DAGs that the user may read. Refuses with 401 who is not logged in."""
    dag_ids: set[str] = get_auth_manager().get_authorized_dag_ids(user=user, method="GET")
    return dag_ids


ReadableDagIds = Annotated[set[str], Depends(readable_dag_ids)]
