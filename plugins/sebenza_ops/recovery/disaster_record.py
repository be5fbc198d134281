"""What a disaster recovery keeps of itself: its record, its plan, how far it has come, and its measures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.ledger import LedgerUnavailable
from sebenza_ops.recovery.disaster_measures import Comparison, Measures, compare, durations_of
from sebenza_ops.recovery.disaster_plan import DisasterPlan

STRATEGY = "disaster_recovery"
PROGRESS = "disaster_recovery"


def start_record(run: ChangeRun, words: str, plan: Mapping[str, Any] | None = None) -> None:
    """Make the run's record where there is none; one that has a plan stays with it, tried again or cleared."""
    deployments, holder = run.ledger.deployments, run.holder
    known = deployments.find(holder.dag_id, holder.run_id)
    if known is None or (plan is None and known.finished_at is not None):
        kept = dict(known.progress) if known is not None else {}
        deployments.start(run.environment.name, holder.dag_id, holder.run_id, holder.actor, words, None, STRATEGY)
        for key, value in kept.items():
            deployments.set_progress(holder.dag_id, holder.run_id, key, value)
    if plan and known is None:
        deployments.update(holder.dag_id, holder.run_id, plan=plan)


def planned_before(run: ChangeRun) -> DisasterPlan | None:
    """The plan that the run has chosen already."""
    record = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    return DisasterPlan.model_validate(record.plan) if record is not None and record.plan else None


def progress_of(run: ChangeRun) -> dict[str, Any]:
    """How far the run has come. A ledger that is down knows nothing."""
    try:
        record = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    except LedgerUnavailable:
        return {}
    return dict((record.progress if record is not None else {}).get(PROGRESS) or {})


def save_progress(run: ChangeRun, **values: Any) -> None:
    """Keep values over kills. A ledger that is down stops no recovery: the estate says how far it has come."""
    holder = run.holder
    try:
        run.ledger.deployments.set_progress(holder.dag_id, holder.run_id, PROGRESS, {**progress_of(run), **values})
    except LedgerUnavailable as error:
        run.note(f"not kept in the ledger, which is down: {', '.join(values)} ({error})", "warning")


def mark_served(run: ChangeRun) -> None:
    """Keep the moment at which users were served again; the first one counts."""
    if not progress_of(run).get("served_at"):
        save_progress(run, served_at=time.time())


def measures_of(run: ChangeRun, plan: DisasterPlan) -> Measures:
    """What this run has measured so far."""
    known = progress_of(run)
    lost = known.get("lost_seconds", plan.loss.seconds)
    if known.get("lost_bytes", plan.loss.size_bytes) == 0:
        lost = 0.0
    return Measures(
        declared_at=plan.declared_at,
        last_good_at=plan.last_good_at,
        last_good_basis=plan.last_good_basis,
        served_at=known.get("served_at"),
        last_kept_at=plan.database.last_kept_at,
        lost_seconds=lost,
    )


def compared(run: ChangeRun, measures: Measures, action: str) -> list[Comparison]:
    """The run's measures beside the objectives; the mean is over the runs of the same kind in the audit."""
    entries = run.ledger.audit.entries(environment=run.environment.name, action=action)
    before = [entry.detail for entry in entries if entry.detail.get("run") != str(run.holder)]
    return compare(measures, run.environment.policies.objectives, durations_of(before))


def audit_once(run: ChangeRun, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Write an audit entry of this run, once over all its tries."""
    entries = run.ledger.audit.entries(environment=run.environment.name, action=action)
    if any(entry.detail.get("run") == str(run.holder) for entry in entries):
        return
    run.ledger.audit.append(action, run.holder.actor, run.environment.name, subject, {"run": str(run.holder), **detail})
