"""What a run has noted in the ledger, read from its file: the faults must hit a state that is really there."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class OpenLease:
    """Who holds an environment, and until when if it is not renewed."""

    token: int
    dag_id: str
    run_id: str
    expires_at: datetime


@dataclass(frozen=True)
class Catalogued:
    """A backup set that the ledger's catalog takes for present."""

    kind: str
    label: str
    is_verified: bool
    is_restored: bool
    bad_reason: str


class Records:
    """The ledger's file, read only.

    Args:
        file: The SQLite file of the lab's ledger.
    """

    def __init__(self, file: Path) -> None:
        self._uri = f"file:{file}?mode=ro"

    def progress(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """What a deployment keeps over kills (`phase`, `last_judged_at`, ...); empty before it began."""
        rows = self._rows("select progress from deployments where dag_id = ? and run_id = ?", dag_id, run_id)
        return dict(json.loads(rows[0][0] or "{}")) if rows else {}

    def plan(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """What a run has planned; empty while it has no plan."""
        rows = self._rows("select plan from deployments where dag_id = ? and run_id = ?", dag_id, run_id)
        return dict(json.loads(rows[0][0] or "{}")) if rows else {}

    def outcome(self, dag_id: str, run_id: str) -> tuple[str, str]:
        """A deployment's outcome and its explanation; empty while there is none."""
        rows = self._rows("select outcome, detail from deployments where dag_id = ? and run_id = ?", dag_id, run_id)
        return (rows[0][0] or "", rows[0][1] or "") if rows else ("", "")

    def errors(self, dag_id: str, run_id: str) -> list[str]:
        """The errors of a run's failed tasks, as "task: error"."""
        payloads = self._evidence(dag_id, run_id, "task_failed")
        return [f"{payload.get('task')}: {payload.get('error')}" for payload in payloads]

    def timeline(self, dag_id: str, run_id: str) -> list[str]:
        """What a run has told about itself, oldest first."""
        return [str(item["text"]) for item in self._items(dag_id, run_id, "timeline")]

    def figures(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """How the release did before a run's change, and after it."""
        return self._items(dag_id, run_id, "figures")

    def judged_at(self, dag_id: str, run_id: str) -> list[float]:
        """When a bake looked at the traffic, in epoch seconds."""
        return sorted({float(item["at"]) for item in self._items(dag_id, run_id, "traffic")})

    def open_lease(self, environment: str) -> OpenLease | None:
        """The lease that counts now, or None."""
        rows = self._rows(
            "select token, dag_id, run_id, expires_at from leases where environment = ? and ended_at is null",
            environment,
        )
        if not rows:
            return None
        token, dag_id, run_id, expires = rows[0]
        expires_at = _time(expires)
        return OpenLease(token, dag_id, run_id, expires_at) if expires_at > datetime.now(UTC) else None

    def catalog(self, environment: str) -> list[Catalogued]:
        """The backup sets that the catalog takes for present, oldest first."""
        rows = self._rows(
            "select kind, label, verified_at, restore_tested_at, bad_reason from backup_sets"
            " where environment = ? and gone_at is null order by finished_at",
            environment,
        )
        return [Catalogued(row[0], row[1], bool(row[2]), bool(row[3]), row[4] or "") for row in rows]

    def _items(self, dag_id: str, run_id: str, kind: str) -> list[dict[str, Any]]:
        payloads = self._evidence(dag_id, run_id, kind)
        return [item for payload in payloads for item in payload.get("items", [payload])]

    def _evidence(self, dag_id: str, run_id: str, kind: str) -> list[dict[str, Any]]:
        rows = self._rows(
            "select payload from evidence_entries where dag_id = ? and run_id = ? and kind = ? order by id",
            dag_id,
            run_id,
            kind,
        )
        return [json.loads(row[0]) for row in rows]

    def _rows(self, query: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self._uri, uri=True, timeout=_BUSY_SECONDS)) as connection:
            return connection.execute(query, values).fetchall()


def _time(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
