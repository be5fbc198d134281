"""Loads what tasks need once, in the scheduler, before LocalExecutor forks its workers from it.

Every task runs in a fork of a worker. What the worker has not imported is imported again by every single task:
with SSH 0.9 s, with PostgreSQL 0.6 s, with S3 1.3 s, with matplotlib 2.6 s, with this package's deployment 0.2 s
(measured on two cores). A change to the package is in force after a restart, as for every Airflow plugin; until then
all tasks of a run see the same one.

The module is an Airflow listener; `sebenza_ops_plugin.py` registers it.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Final

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

MODULES: Final = (
    "airflow.dag_processing.dagbag",
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.http.hooks.http",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.pagerduty.hooks.pagerduty_events",
    "airflow.providers.slack.hooks.slack_webhook",
    "airflow.providers.smtp.hooks.smtp",
    "airflow.providers.ssh.hooks.ssh",
    "airflow.providers.standard.operators.hitl",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "boto3",
    "httpx",
    "jinja2",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "matplotlib.ticker",
    "paramiko",
    "psycopg2",
    "pydantic",
    "sqlalchemy.orm",
    "sebenza_ops.backup.application_archives",
    "sebenza_ops.deployment.builds",
    "sebenza_ops.deployment.finish",
    "sebenza_ops.deployment.operators",
    "sebenza_ops.deployment.sensors",
    "sebenza_ops.deployment.steps",
    "sebenza_ops.deployment.switch",
    "sebenza_ops.estate.operators",
    "sebenza_ops.ledger",
    "sebenza_ops.notify.callbacks",
    "sebenza_ops.procedures",
    "sebenza_ops.recovery.application_restore",
    "sebenza_ops.recovery.rejoin",
    "sebenza_ops.recovery.switch_finish",
    "sebenza_ops.recovery.switch_operators",
    "yaml",
)


@hookimpl
def on_starting(component: object) -> None:
    """Called by Airflow when a component starts (and, with another argument, when a task does)."""
    if type(component).__name__ == "Job" and "scheduler" in sys.argv:
        preload()


def preload() -> list[str]:
    """Import the modules; returns those that can't be, which then fail where they are used and say why."""
    missing = []
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            log.warning("not preloaded: %s (%s)", name, error)
            missing.append(name)
    return missing
