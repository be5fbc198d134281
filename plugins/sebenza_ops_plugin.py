"""Registers Sebenza Ops with Airflow: the console, its views, and its listeners.

Every Airflow process imports this, each task included, so it imports little.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from sebenza_ops import preload
from sebenza_ops.console.conf_guard import ConfGuard
from sebenza_ops.console.lazy import LazyConsole
from sebenza_ops.notify import listener

URL_PREFIX = "/sebenza"


class SebenzaOpsPlugin(AirflowPlugin):
    """What Sebenza Ops adds to Airflow."""

    name = "sebenza_ops"
    listeners: list[ModuleType | object] = [listener, preload]  # noqa: RUF012 - AirflowPlugin declares it so
    fastapi_apps: list[dict[str, Any]] = [  # noqa: RUF012 - AirflowPlugin declares it so
        {"app": LazyConsole(), "url_prefix": URL_PREFIX, "name": "Sebenza Ops"},
    ]
    fastapi_root_middlewares: list[dict[str, Any]] = [  # noqa: RUF012 - AirflowPlugin declares it so
        {"middleware": ConfGuard, "args": [], "kwargs": {}, "name": "Depth of confs"},
    ]
    # Addresses are relative: Airflow may be served below a path.
    external_views: list[dict[str, Any]] = [  # noqa: RUF012 - AirflowPlugin declares it so
        {
            # Airflow's navigation cuts longer names.
            "name": "Sebenza",
            "href": "sebenza/",
            "destination": "nav",
            "url_route": "sebenza",
            "icon": "sebenza/assets/icon.svg",
        },
        {
            "name": "Evidence",
            "href": "sebenza/evidence/{DAG_ID}/{RUN_ID}",
            "destination": "dag_run",
            "url_route": "evidence",
        },
    ]
