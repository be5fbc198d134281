"""Prepares the metadata database of the lab's Airflow, in a process of its own.

``python -m lab.airflow.metadata USERS_FILE``, with ``AIRFLOW_HOME`` set. One process, because importing Airflow takes
seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lab.airflow.users import load_or_create_users
from sebenza_ops.installation.metadata import prepare_metadata

if __name__ == "__main__":
    prepare_metadata(load_or_create_users(Path(sys.argv[1])).values(), keep_passwords=False)
