"""How a refresh ended."""

from __future__ import annotations

from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.run_evidence import store_evidence


def finish_refresh(run: ChangeRun, failed: list[str], started_at: datetime, summary: str | None) -> str:
    """Record how the run ended, and store its evidence. Returns the summary."""
    text = summary or f"{run.environment.name} keeps the database that it has"
    if failed:
        text = (
            f"{run.environment.name} was not refreshed: {failed[0]} failed, its log says why and which database it has"
        )
    outcome = OutcomeFact.model_validate(
        {
            "outcome": "failed" if failed or summary is None else "succeeded",
            "summary": text,
            "failed_task": failed[0] if failed else None,
            "at": datetime.now(UTC),
        }
    )
    run.record([outcome])
    store_evidence(run, started_at, is_failed=bool(failed))
    return text
