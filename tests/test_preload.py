from __future__ import annotations

import os
import subprocess
import sys

from lab import paths
from sebenza_ops import preload


def test_every_module_can_be_loaded() -> None:
    assert preload.preload() == []


def test_the_listener_itself_loads_none_of_them() -> None:
    """Every task process imports it."""
    code = (
        "import sys, sebenza_ops.preload as p; p.on_starting(object()); "
        "print([name for name in ('boto3', 'paramiko', 'matplotlib', 'psycopg2') if name in sys.modules])"
    )

    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT / "plugins")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines()[-1] == "[]"
