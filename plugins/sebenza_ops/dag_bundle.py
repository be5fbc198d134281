"""The DAG bundle of the procedures: a local folder whose DAGs follow from the inventory too.

Airflow parses a file again when it has changed, or after `[dag_processor] min_file_process_interval`. Which DAGs a
procedure's file makes, and with which tasks, is also a matter of the inventory's files. The bundle looks at them each
time that it is refreshed (`[dag_processor] refresh_interval`), so that the interval may be long: parsing files of which
nothing has changed is most of what Airflow costs while nothing happens.
"""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from typing import Final

from airflow.dag_processing.bundles.local import LocalDagBundle
from sqlalchemy import select

from sebenza_ops.environments.inventory import inventory_directory

log = logging.getLogger(__name__)


# A change is acted on when nothing has changed for so long: Airflow drops the request for a file that is just being
# parsed, and by then no parse goes on that has read the inventory before.
SETTLED_SECONDS: Final = 5.0


class ProceduresBundle(LocalDagBundle):
    """A local folder of DAG files, all of which are parsed again soon after the inventory has changed.

    Every process of Airflow makes one, to learn the folder; only the DAG processor refreshes it.
    """

    # Airflow makes it without arguments of ours. When it is refreshed first, every file is about to be parsed.
    _parsed: str | None = None
    _seen: str | None = None
    _seen_at = 0.0

    def refresh(self) -> None:
        """Ask for a parse of every file when the inventory has changed since the last time.

        Raises an error of the database's; the DAG processor logs it, and the next refresh asks again.
        """
        found = inventory_digest(inventory_directory())
        if self._parsed is None:
            self._parsed = found
        if found != self._seen:
            self._seen, self._seen_at = found, time.monotonic()
        elif found != self._parsed and time.monotonic() - self._seen_at >= SETTLED_SECONDS:
            self._request_parsing()
            self._parsed = found

    def _request_parsing(self) -> None:
        # Here, because workers, which import this too, have no access to Airflow's database.
        from airflow.models.dagbag import DagPriorityParsingRequest
        from airflow.utils.file import list_py_file_paths
        from airflow.utils.session import create_session

        files = {str(Path(file).relative_to(self.path)) for file in list_py_file_paths(self.path)}
        log.info("the inventory has changed: %d files of %s are parsed again", len(files), self.path)
        waiting = select(DagPriorityParsingRequest.relative_fileloc).where(
            DagPriorityParsingRequest.bundle_name == self.name
        )
        with create_session() as session:
            # A request's key follows from bundle and file.
            for file in sorted(files - set(session.scalars(waiting))):
                session.add(DagPriorityParsingRequest(bundle_name=self.name, relative_fileloc=file))


def inventory_digest(directory: Path) -> str:
    """SHA-256 over names and content of the inventory's files; what can't be read counts as missing."""
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.y*ml")):
        if file.name.startswith("."):
            continue
        try:
            content = file.read_bytes()
        except OSError:
            # The parse says what is wrong with it.
            continue
        digest.update(f"{file.name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()
