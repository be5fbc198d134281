"""Where a run's report is kept: one object a run, under a key that anybody can work out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from sebenza_ops.environments.models import Environment

__all__ = ["CONTENT_TYPE", "ReportWriter", "report_key", "store_report"]

CONTENT_TYPE = "text/html; charset=utf-8"


class ReportWriter(Protocol):
    """The object storage of an environment, as far as this module uses it (`systems.object_store.ObjectStorage`)."""

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        """Store an object, replacing one of that key."""


def report_key(environment: str, dag_id: str, run_id: str) -> str:
    """The key of a run's report, below the prefix of the environment's object store.

    A run id may hold any character; what could be read as another place is percent-encoded.
    """
    return f"evidence/{_segment(environment)}/{_segment(dag_id)}/{_segment(run_id)}/report.html"


def store_report(html: str, environment: Environment, dag_id: str, run_id: str, storage: ReportWriter) -> str:
    """Keep a run's report in object storage and return its key. Storing again replaces it.

    Raises:
        OutsideSystemError: the object storage can't be written; the ledger still has all facts.
    """
    key = report_key(environment.name, dag_id, run_id)
    storage.put_bytes(key, html.encode("utf-8"), CONTENT_TYPE)
    return key


def _segment(part: str) -> str:
    """A part of a key that stays one part: no slash, and not `.` or `..`."""
    quoted = quote(part, safe=":+@=~")
    return quoted.replace(".", "%2E") if quoted in {".", ".."} else quoted
