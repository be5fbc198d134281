"""Journals: what an emergency keeps while the ledger can't be used, until it is back.

A journal is a ledger itself, in a SQLite file of one run on this machine: the emergency's code is the same with both,
and every entry is there whole or not at all. It knows nothing of other runs; what must be known of them, the hosts
know: fencing tokens and good releases. `reconcile` carries a journal over into the ledger.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from sebenza_ops.ledger.database import open_engine
from sebenza_ops.ledger.errors import LedgerError, LedgerUnavailable
from sebenza_ops.ledger.models import Base
from sebenza_ops.ledger.store import Ledger
from sebenza_ops.ledger.values import Holder

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "SEBENZA_JOURNAL"
# The ledger that is down may have given out tokens that no host has seen yet; a run takes one for each attempt.
TOKEN_GAP = 1000
_SUFFIX = ".journal.db"


def journal_directory() -> Path:
    """Where journals are kept: SEBENZA_JOURNAL, or `journal` in AIRFLOW_HOME."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    home = os.environ.get("AIRFLOW_HOME", "~/airflow")
    return Path(named).expanduser() if named else Path(home).expanduser() / "journal"


def journal_file(dag_id: str, run_id: str) -> Path:
    """The file of a run's journal, whether it is there or not."""
    digest = hashlib.sha256(f"{dag_id}\n{run_id}".encode()).hexdigest()[:16]
    return journal_directory() / f"{dag_id}-{digest}{_SUFFIX}"


def pending_journals() -> list[Path]:
    """The journals on this machine that may hold what the ledger lacks, the oldest first."""
    try:
        return sorted(journal_directory().glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    except OSError as error:
        log.error("the journals in %s can't be read: %s", journal_directory(), error)
        return []


def open_journal(dag_id: str, run_id: str) -> Ledger:
    """Return the journal of a run, made when it is not there. Raises LedgerUnavailable when it can't be written."""
    file = journal_file(dag_id, run_id)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What it holds is the ledger's, and nobody else's.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise LedgerUnavailable(
            f"The journal {file} can't be written: {error}; nothing was recorded by this call. "
            f"Name another directory in {DIRECTORY_VARIABLE}."
        ) from error
    journal = read_journal(file)
    if journal.is_new_file(file):
        # Not by its migrations: loading Alembic takes a second, and an emergency has five.
        with journal.database.writing() as session:
            Base.metadata.create_all(session.connection())
    return journal


def read_journal(file: Path) -> Ledger:
    """Return the journal in a file that is there."""
    return Ledger(open_engine(f"sqlite:///{file}"), is_journal=True)


def find_journal(dag_id: str, run_id: str) -> Ledger | None:
    """Return the journal that a run has on this machine, or None."""
    file = journal_file(dag_id, run_id)
    return read_journal(file) if file.exists() else None


def ledger_or_journal(environment: str, holder: Holder) -> Ledger:
    """Return the ledger; while it can't be read or written, the run's journal. For emergencies.

    Raises LedgerUnavailable when neither can be used.
    """
    try:
        ledger = Ledger.from_connection()
        ledger.check(environment)
    except LedgerError as error:
        log.warning("The ledger can't be used, going on with the journal of this run: %s", error)
        return open_journal(holder.dag_id, holder.run_id)
    return ledger
