"""The evidence report of a run: rendered and stored when the run ends."""

from __future__ import annotations

from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import load
from sebenza_ops.evidence.report import render_report
from sebenza_ops.evidence.store import store_report
from sebenza_ops.evidence.summary import RunHeader, procedure_name
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage


def store_evidence(run: ChangeRun, started_at: datetime, *, is_failed: bool) -> None:
    """Render the report of what the run has recorded, store it, and keep its key with the run.

    A report that can't be stored never breaks a change; the ledger still has every fact, and the run a note.
    """
    holder, now = run.holder, datetime.now(UTC)
    header = RunHeader(
        dag_id=holder.dag_id,
        run_id=holder.run_id,
        environment=run.environment.name,
        procedure=procedure_name(holder.dag_id),
        run_state="failed" if is_failed else "success",
        rendered_at=now,
        requested_by=holder.actor,
        started_at=started_at,
        finished_at=now,
    )
    try:
        report = render_report(load(run.ledger, holder.dag_id, holder.run_id), header)
        storage = ObjectStorage(run.environment.object_store)
        key = store_report(report, run.environment, holder.dag_id, holder.run_id, storage)
        run.ledger.deployments.update(holder.dag_id, holder.run_id, evidence_url=key)
    except OutsideSystemError as error:
        run.note(f"the evidence report could not be stored, the ledger has its facts: {error}", "warning")
