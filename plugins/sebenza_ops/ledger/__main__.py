"""`python -m sebenza_ops.ledger migrate|reconcile [--url URL]`: the ledger's tables, and journals for it.

migrate creates or updates the tables. reconcile carries over what emergencies have kept on this machine while the
ledger was down (in SEBENZA_JOURNAL, or `journal` in AIRFLOW_HOME); doing it again changes nothing.
"""

from __future__ import annotations

import argparse
import os

from sebenza_ops.ledger.errors import LedgerError
from sebenza_ops.ledger.journal import journal_directory, pending_journals
from sebenza_ops.ledger.reconcile import reconcile_pending
from sebenza_ops.ledger.store import Ledger


def main() -> int:
    """Run a command; 0 on success, 1 with one line that says what to do."""
    parser = argparse.ArgumentParser(prog="python -m sebenza_ops.ledger", description=__doc__)
    parser.add_argument("command", choices=["migrate", "reconcile"])
    parser.add_argument("--url", help="database URL; default: the Airflow connection ops_ledger")
    arguments = parser.parse_args()
    # As Airflow's own commands do, so that a connection kept in Airflow's database is found too.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    try:
        ledger = Ledger.open(arguments.url) if arguments.url else Ledger.from_connection()
        if arguments.command == "reconcile":
            return _reconcile(ledger)
        revision = ledger.migrate()
    except LedgerError as error:
        print(f"ledger: {error}")
        return 1
    print(f"ledger: {ledger.engine.url.render_as_string(hide_password=True)} is at revision {revision}")
    return 0


def _reconcile(ledger: Ledger) -> int:
    pending = pending_journals()
    done = reconcile_pending(ledger)
    for result in done:
        print(f"ledger: {result}")
    if not pending:
        print(f"ledger: no journals in {journal_directory()}")
    unread = {file.name for file in pending} - {result.file.name for result in done}
    for name in sorted(unread):
        print(f"ledger: {name} can't be read, it stays where it is")
    return 1 if unread else 0


if __name__ == "__main__":
    raise SystemExit(main())
