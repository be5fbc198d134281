"""Loads what forks need once, in the process that they are forked from.

Every task runs in a fork of a worker, which is a fork of the scheduler. What the worker has not imported is imported
again by every single task: with SSH 0.9 s, with PostgreSQL 0.6 s, with S3 1.3 s, with matplotlib 2.6 s, with this
package's deployment 0.2 s (measured on two cores). The DAG processor parses every file, and calls back when a run has
ended, in a fork too; for those it loads what DAG files import. A change to the package is in force after a
restart, as for every Airflow plugin; until then all tasks of a run see the same one.

The module is an Airflow listener; `sebenza_ops_plugin.py` registers it.
"""

from __future__ import annotations

import ast
import importlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from airflow.listeners import hookimpl

log = logging.getLogger(__name__)

MODULES: Final = (
    "airflow.dag_processing.bundles.local",
    "airflow.providers.amazon.aws.hooks.s3",
    "airflow.providers.http.hooks.http",
    "airflow.providers.postgres.hooks.postgres",
    "airflow.providers.pagerduty.hooks.pagerduty_events",
    "airflow.providers.slack.hooks.slack_webhook",
    "airflow.providers.smtp.hooks.smtp",
    "airflow.providers.ssh.hooks.ssh",
    "airflow.providers.standard.operators.hitl",
    "airflow.sdk.definitions.asset.metadata",
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "asyncssh",
    "boto3",
    "dns.query",
    "dns.tsigkeyring",
    "dns.update",
    "httpx",
    "jinja2.ext",
    "jinja2.nativetypes",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "matplotlib.ticker",
    "paramiko",
    "psycopg2",
    "pydantic",
    "sqlalchemy.orm",
    "yaml",
)


# What no task runs: web pages, commands of people, and migrations, which are found by their files.
NOT_IN_TASKS: Final = (
    "sebenza_ops.break_glass",
    "sebenza_ops.console",
    "sebenza_ops.installation",
    "sebenza_ops.ledger.migrations",
    "sebenza_ops.preload",
    "sebenza_ops.prompt_executor",
)

# What a parse needs besides what the files import: Airflow's own, and what a run's end calls.
FOR_PARSING: Final = (
    "airflow.dag_processing.dagbag",
    "airflow.providers.standard.decorators.python",
    "airflow.sdk.bases.decorator",
    "airflow.sdk.definitions.decorators",
    "sebenza_ops.notify.callbacks",
)


@hookimpl
def on_starting(component: object) -> None:
    """Called by Airflow when a component starts (and, with another argument, when a task does)."""
    if type(component).__name__ != "Job":
        return
    if "scheduler" in sys.argv:
        preload()
    elif "dag-processor" in sys.argv:
        load((*FOR_PARSING, *imported_by_dag_files()))


def preload() -> list[str]:
    """Import what tasks need; returns the modules that can't be, which then fail where they are used and say why."""
    return load((*MODULES, *FOR_PARSING, *run_by_tasks()))


def load(modules: Iterable[str]) -> list[str]:
    """Import the modules and read the inventory, which stays known until a file changes; returns what is missing."""
    missing = []
    for name in dict.fromkeys(modules):
        try:
            importlib.import_module(name)
        except ImportError as error:
            log.warning("not preloaded: %s (%s)", name, error)
            missing.append(name)
    importlib.import_module("sebenza_ops.environments.inventory").load_inventory()
    return missing


def run_by_tasks() -> list[str]:
    """The modules of this package that a task may run: operators import much of it when they execute."""
    package = __name__.partition(".")[0]
    folder = Path(__file__).parent
    names = (".".join((package, *file.relative_to(folder).with_suffix("").parts)) for file in folder.rglob("*.py"))
    return sorted(
        name.removesuffix(".__init__")
        for name in names
        if not name.startswith(NOT_IN_TASKS) and not name.endswith("__main__")
    )


def imported_by_dag_files() -> list[str]:
    """The modules of this package that DAG files import when they are parsed."""
    from airflow.configuration import conf

    found: set[str] = set()
    for file in Path(conf.get_mandatory_value("core", "dags_folder")).rglob("*.py"):
        try:
            tree = ast.parse(file.read_bytes())
        except (OSError, SyntaxError):
            # The parse says so, where people look.
            continue
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    package = __name__.partition(".")[0]
    return sorted(name for name in found if name.startswith(f"{package}."))
