"""The end of a point-in-time restore, whatever happened: nobody is held, no copy is left, outcome and evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.point_exchange import ExchangeFailedError, on_copy, take_back
from sebenza_ops.recovery.point_plan import PointPlan
from sebenza_ops.recovery.point_steps import record_of
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import kept_sessions


def judge(failed: Sequence[str], state: str, *, plan_only: bool, rejected: bool) -> Outcome:
    """How a run ended.

    Args:
        failed: The tasks that failed.
        state: How far the run has come, as its progress says.
        plan_only: It was to plan only.
        rejected: A person has said no.
    """
    if rejected:
        return Outcome.REJECTED
    if failed and state == "taken back":
        return Outcome.ROLLED_BACK
    if failed:
        return Outcome.FAILED if state in {"swapped", "restored", "restoring", "exchanging"} else Outcome.REFUSED
    return Outcome.PLANNED if plan_only else Outcome.SUCCEEDED


@kept_sessions()
def settle(run: ChangeRun, plan: PointPlan) -> list[str]:
    """Take back an exchange without an end, and remove a copy that was not used. Returns what is amiss."""
    record, amiss = record_of(run), []
    if record.progress().get("exchanging") and record.progress().get("state") != "swapped":
        try:
            take_back(run, Pair(run.environment), plan, "the run ended before the restored cluster took writes")
        except (ExchangeFailedError, OutsideSystemError) as error:
            amiss.append(str(error))
            return amiss
    if record.progress().get("state") == "swapped":
        return amiss
    try:
        done = on_copy(run, plan, lambda copy: copy.discard(run.fence))
        if done == "removed":
            run.note("the restored copy, which was not used, is removed", host=plan.host)
    except OutsideSystemError as error:
        amiss.append(f"the restored copy on {plan.host} could not be removed: {error}")
    return amiss


def finish(run: ChangeRun, failed: Sequence[str], *, plan_only: bool, may_settle: bool, backup_run: str = "") -> str:
    """Record the outcome and store the evidence. Returns the summary.

    Args:
        run: The run.
        failed: The tasks that failed.
        plan_only: It was to plan only.
        may_settle: It has started something, and holds the lease.
        backup_run: The backup that was started afterwards, if one was.
    """
    holder, ledger, name = run.holder, run.ledger, run.environment.name
    record = record_of(run)
    known = record.progress()
    plan = PointPlan.model_validate(known["plan"]) if known.get("plan") else None
    amiss = settle(run, plan) if plan is not None and may_settle else []
    for text in amiss:
        run.note(text, "error")
    known = record.progress()
    state = str(known.get("state") or "")
    said_no = ledger.audit.entries(environment=name, action="decision.rejected")
    rejected = [entry for entry in said_no if entry.subject == str(holder)] if failed and state != "swapped" else []
    outcome = judge(failed, state, plan_only=plan_only, rejected=bool(rejected))
    summary = f"{name}: {_summary(plan, failed, known, outcome)}"
    if rejected:
        reason = rejected[0].detail.get("reason") or "no reason given"
        summary = f"{name}: rejected by {rejected[0].actor} ({reason}); the database is untouched, the copy is removed"
    if amiss:
        summary += f". {'. '.join(amiss)}"
    if state == "swapped":
        due = "the archive has a new timeline: make a full backup now (backup_database, type full)"
        if backup_run:
            due = (
                f"a full backup was started (backup_database.{name} {backup_run}; it waits while that is switched off)"
            )
        run.tell_warning(due)
        summary += f"; {due}"
    fact = {
        "outcome": outcome.value,
        "summary": summary,
        "state": _state_words(plan, state),
        "failed_task": failed[0] if failed else None,
        "at": datetime.now(UTC),
    }
    run.record([OutcomeFact.model_validate(fact)])
    kept = ledger.deployments.find(holder.dag_id, holder.run_id)
    if kept is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, kept.started_at, is_failed=bool(failed))
    return summary


def _summary(plan: PointPlan | None, failed: Sequence[str], known: dict[str, object], outcome: Outcome) -> str:
    if outcome is Outcome.PLANNED:
        return "planned only, nothing was started"
    if plan is None:
        return f"{failed[0]} failed, nothing was started" if failed else "nothing to do"
    if known.get("state") == "swapped":
        text = (
            f"{plan.host} has the database of {plan.target.words}, last commit {known.get('last_commit')}; clients "
            f"waited for {known.get('waited_ms')} ms; the former data directory is kept as {known.get('kept')}, and "
            f"timeline {plan.timeline} can be restored to {known.get('restore_point')}"
        )
        if failed:
            text += f". {failed[0]} failed: its log says why, and clearing it goes on"
        return text
    return f"{failed[0] if failed else 'the run'} ended before anything was exchanged; the database is as it was"


def _state_words(plan: PointPlan | None, state: str) -> str:
    if plan is not None and state == "swapped":
        return f"the database is that of {plan.target.words}"
    return "the database is as it was"
