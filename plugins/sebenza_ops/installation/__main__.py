"""`python -m sebenza_ops.installation prepare --users FILE`: brings an installation's databases to this version.

Migrates Airflow's metadata and the ledger, makes the roles what this version says, and creates users who are not there.
Idempotent: it runs at each start of the installation, and again after an upgrade or a change of the inventory.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sebenza_ops.installation.metadata import UsersFileError, prepare_metadata, read_users
from sebenza_ops.ledger.errors import LedgerError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; 0 when everything is in order, 1 with one line that says what is not."""
    parser = argparse.ArgumentParser(prog="python -m sebenza_ops.installation", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="migrate the databases, make the roles, create missing users")
    prepare.add_argument("--users", type=Path, required=True, help="JSON list of {username, role, password}")
    options = parser.parse_args(arguments)
    # As Airflow's own commands do: it reads its databases and secrets itself, and asks no API server.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        _prepare(options.users)
    except (UsersFileError, LedgerError) as error:
        print(f"installation: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare(users_file: Path) -> None:
    from airflow.configuration import conf
    from airflow.dag_processing.dagbag import DagBag

    from sebenza_ops.ledger import Ledger

    users = read_users(users_file)
    revision = Ledger.from_connection().migrate()
    print(f"installation: the ledger is at revision {revision}", flush=True)
    # Before there are tables, so from the files: what the DAG processor will find.
    bag = DagBag(dag_folder=conf.get("core", "dags_folder"))
    prepare_metadata(users, bag.dag_ids, keep_passwords=True)
    print(f"installation: metadata and roles are ready, for {len(bag.dag_ids)} procedures", flush=True)
    for file, problem in bag.import_errors.items():
        print(f"installation: {file} can't be imported: {problem.strip().splitlines()[-1]}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
