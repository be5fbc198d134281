from __future__ import annotations

import os
import subprocess
import sys

from lab import paths
from sebenza_ops import preload


def test_every_module_can_be_loaded() -> None:
    assert preload.preload() == []


def test_whatever_a_task_may_run_is_loaded() -> None:
    """Operators import it when they execute, in each task's process again."""
    code = (
        "import sys, sebenza_ops.preload as p; p.preload(); "
        "print([name for name in ('asyncssh', 'dns.update', 'sebenza_ops.deployment.triggers', "
        "'sebenza_ops.recovery.disaster_fence', 'sebenza_ops.estate.judge') if name not in sys.modules], "
        "[name for name in sys.modules if name.startswith(('sebenza_ops.console', 'sebenza_ops.break_glass'))])"
    )

    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT / "plugins")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines()[-1] == "[] []"


def test_what_dag_files_import_is_found() -> None:
    environment = os.environ | {
        "PYTHONPATH": str(paths.CHECKOUT / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(paths.CHECKOUT / "dags"),
    }
    code = "import sebenza_ops.preload as p; print(p.imported_by_dag_files())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    found = done.stdout.splitlines()[-1]
    assert "'sebenza_ops.deployment.operators'" in found
    assert "airflow" not in found


def test_the_listener_itself_loads_none_of_them() -> None:
    """Every task process imports it."""
    code = (
        "import sys, sebenza_ops.preload as p; p.on_starting(object()); "
        "print([name for name in ('boto3', 'paramiko', 'matplotlib', 'psycopg2') if name in sys.modules])"
    )

    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT / "plugins")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines()[-1] == "[]"
