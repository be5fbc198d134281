"""`python -m sebenza_ops.ledger migrate [--url URL]`: create or update the ledger's tables."""

from __future__ import annotations

import argparse
import os

from sebenza_ops.ledger.errors import LedgerError
from sebenza_ops.ledger.store import Ledger


def main() -> int:
    """Run a command; 0 on success, 1 with one line that says what to do."""
    parser = argparse.ArgumentParser(prog="python -m sebenza_ops.ledger", description=__doc__)
    parser.add_argument("command", choices=["migrate"])
    parser.add_argument("--url", help="database URL; default: the Airflow connection ops_ledger")
    arguments = parser.parse_args()
    # As Airflow's own commands do, so that a connection kept in Airflow's database is found too.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        ledger = Ledger.open(arguments.url) if arguments.url else Ledger.from_connection()
        revision = ledger.migrate()
    except LedgerError as error:
        print(f"ledger: {error}")
        return 1
    print(f"ledger: {ledger.engine.url.render_as_string(hide_password=True)} is at revision {revision}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
