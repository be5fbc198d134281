"""The end of a run of migrate_contract: its outcome in the ledger, its evidence in object storage."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.contract import applied_by
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.ledger import Outcome
from sebenza_ops.run_evidence import store_evidence


def judge_contract(
    name: str, failed: Sequence[str], applied: Sequence[str], *, plan_only: bool, has_begun: bool
) -> tuple[Outcome, str]:
    """How a run ended, and its summary for people.

    Args:
        name: The environment.
        failed: The tasks that failed.
        applied: The contract migrations that the run has applied.
        plan_only: The run was to plan only.
        has_begun: The schema may have been touched: the step that changes it was reached.
    """
    done = ", ".join(applied)
    if failed and applied:
        return (
            Outcome.FAILED,
            f"{name}: {failed[0]} failed, but the database has now: {done}. Its log says more",
        )
    if failed and has_begun:
        return Outcome.FAILED, f"{name}: {failed[0]} failed; no contract migration was finished. Its log says why"
    if failed:
        return Outcome.REFUSED, f"{name}: {failed[0]} failed before the schema was changed"
    if plan_only:
        return Outcome.PLANNED, f"{name}: planned only, nothing was changed"
    if not applied:
        return Outcome.SUCCEEDED, f"{name}: nothing to do, the database has all contract migrations"
    return Outcome.SUCCEEDED, f"{name}: contracted by {done}; releases that need the old schema can't run any more"


def finish_contract(run: ChangeRun, failed: Sequence[str], *, plan_only: bool, has_begun: bool) -> str:
    """Record the outcome and store the evidence. Returns the summary."""
    holder, ledger = run.holder, run.ledger
    outcome, summary = judge_contract(
        run.environment.name, failed, applied_by(run), plan_only=plan_only, has_begun=has_begun
    )
    record = ledger.deployments.find(holder.dag_id, holder.run_id)
    run.record(
        [
            OutcomeFact(
                outcome=outcome.value,
                summary=summary,
                live_color=record.from_color if record else None,
                live_release=record.release_id if record else None,
                failed_task=failed[0] if failed else None,
                at=datetime.now(UTC),
            )
        ]
    )
    # A run that was refused its lease has no record.
    if record is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, record.started_at, is_failed=bool(failed))
    return summary
