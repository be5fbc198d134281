"""`make break-glass`: an emergency procedure without Airflow, on your hosts or, where nothing names them, in the lab.

Inventory and credentials are never mixed: the lab's are taken only when neither is named and the machine has no
credentials file of its own.
"""

from __future__ import annotations

import os
import sys

from lab import paths
from sebenza_ops.break_glass.command import main
from sebenza_ops.break_glass.credentials import DEFAULT_FILE, FILE_VARIABLE
from sebenza_ops.break_glass.home import HOME_VARIABLE, JOURNAL_VARIABLE
from sebenza_ops.environments.inventory import DIRECTORY_VARIABLE


def lab_defaults() -> dict[str, str]:
    """The variables that point to the lab; none when something points elsewhere, or there is no lab."""
    named = any(os.environ.get(name) for name in (FILE_VARIABLE, DIRECTORY_VARIABLE))
    if named or DEFAULT_FILE.exists() or not paths.CONNECTIONS_FILE.exists():
        return {}
    return {
        FILE_VARIABLE: str(paths.CONNECTIONS_FILE),
        DIRECTORY_VARIABLE: str(paths.ENVIRONMENTS_DIR),
        HOME_VARIABLE: os.environ.get(HOME_VARIABLE) or str(paths.LAB_DIR / "break-glass"),
        JOURNAL_VARIABLE: os.environ.get(JOURNAL_VARIABLE) or str(paths.JOURNAL_DIR),
    }


if __name__ == "__main__":
    os.environ.update(lab_defaults())
    sys.exit(main())
