"""The end of a drill: its outcome, a finding for whatever has failed, its evidence."""

from __future__ import annotations

from collections.abc import Sequence

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import OutcomeFact, utc_now
from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.disaster_finish import open_finding
from sebenza_ops.recovery.disaster_measures import DRILLED_ACTION
from sebenza_ops.run_evidence import store_evidence

# What a drill that could not even begin says nothing about.
BEFORE_CHANGE = frozenset({"plan_drill"})


def finish_drill(run: ChangeRun, failed: Sequence[str]) -> str:
    """Record how the drill ended, and store its evidence. Returns the summary."""
    holder, ledger, name = run.holder, run.ledger, run.environment.name
    entries = ledger.audit.entries(environment=name, action=DRILLED_ACTION)
    own = next((entry.detail for entry in entries if entry.detail.get("run") == str(holder)), None)
    measured = ""
    if own is not None:
        measured = f"; from the start {own['rto_from_start_seconds']:.1f} s, lost {own['rpo_seconds'] or 0:.1f} s"
    if not failed:
        summary, outcome = f"{name}: the drill has met every objective{measured}", Outcome.SUCCEEDED
    elif failed[0] in BEFORE_CHANGE:
        summary, outcome = f"{name}: the drill was refused, nothing was touched: see its log", Outcome.REFUSED
    else:
        summary, outcome = f"{name}: THE DRILL HAS FAILED at {failed[0]}{measured}; see its log", Outcome.FAILED
        open_finding(run, f"disaster recovery drill: {failed[0]}", summary)
    fact = {
        "outcome": outcome.value,
        "summary": summary,
        "state": "production is as before",
        "failed_task": failed[0] if failed else None,
        "at": utc_now(),
    }
    run.record([OutcomeFact.model_validate(fact)])
    record = ledger.deployments.find(holder.dag_id, holder.run_id)
    if record is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, record.started_at, is_failed=bool(failed))
    return summary
