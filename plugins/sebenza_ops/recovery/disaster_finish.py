"""The end of a disaster recovery, whatever happened before: its measures, what they miss, its outcome, its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import GateFact, OutcomeFact, utc_now
from sebenza_ops.ledger import Outcome
from sebenza_ops.ledger.findings import OPENED
from sebenza_ops.recovery.disaster_measures import RECOVERED_ACTION, Comparison, Measures, missed
from sebenza_ops.recovery.disaster_plan import DisasterPlan, conclusion, failback_conclusion
from sebenza_ops.recovery.disaster_record import audit_once, compared, measures_of, planned_before, progress_of
from sebenza_ops.run_evidence import store_evidence

FINDING_ACTION = OPENED


def judge(failed: Sequence[str], *, plan_only: bool, has_changed: bool, rejected: bool) -> Outcome:
    """How a recovery ended.

    Args:
        failed: The tasks that failed.
        plan_only: The run was to plan only.
        has_changed: Something was done at a site.
        rejected: A person has said no.
    """
    if rejected:
        return Outcome.REJECTED
    if failed:
        return Outcome.FAILED if has_changed else Outcome.REFUSED
    return Outcome.PLANNED if plan_only else Outcome.SUCCEEDED


def record_measures(run: ChangeRun, plan: DisasterPlan, action: str) -> tuple[Measures, list[Comparison]]:
    """Keep what was measured: as evidence, in the audit for the mean over runs, and as a finding for each miss."""
    measures = measures_of(run, plan)
    comparisons = compared(run, measures, action)
    run.record(
        [
            GateFact.model_validate(
                {
                    "name": f"objective: {each.name}",
                    "verdict": "pass" if each.is_met else "fail",
                    "detail": each.words,
                    "at": utc_now(),
                }
            )
            for each in comparisons
        ]
    )
    audit_once(run, action, plan.to_site, {"kind": plan.kind.value, "lost": plan.loss.words, **measures.detail()})
    for each in missed(comparisons):
        open_finding(run, each.name, each.words)
    return measures, comparisons


def open_finding(run: ChangeRun, subject: str, text: str) -> None:
    """Record something that somebody must mend, with who that is; once for each run and subject."""
    policy = run.environment.policies.disaster_recovery
    owner = policy.owner if policy is not None else "devops"
    entries = run.ledger.audit.entries(environment=run.environment.name, action=FINDING_ACTION, subject=subject)
    if any(entry.detail.get("run") == str(run.holder) for entry in entries):
        return
    detail = {"run": str(run.holder), "owner": owner, "finding": text}
    entry = run.ledger.audit.append(FINDING_ACTION, run.holder.actor, run.environment.name, subject, detail)
    run.note(f"finding {entry.id} for {owner}: {text}", "error")


def finish_recovery(
    run: ChangeRun, failed: Sequence[str], *, plan_only: bool, is_disaster: bool = True, amiss: str = ""
) -> str:
    """Record the outcome and store the evidence; of a disaster, the objectives too. Returns the summary.

    Args:
        run: The run.
        failed: The tasks that failed.
        plan_only: It was to plan only.
        is_disaster: It is no failback.
        amiss: What could not be taken back.
    """
    holder, ledger, name = run.holder, run.ledger, run.environment.name
    plan, known = planned_before(run), progress_of(run)
    said_no = ledger.audit.entries(environment=name, action="decision.rejected")
    rejected = [entry for entry in said_no if entry.subject == str(holder)] if failed else []
    served = bool(known.get("served_at"))
    outcome = judge(failed, plan_only=plan_only, has_changed=bool(known), rejected=bool(rejected))
    measured = ""
    if plan is not None and served and is_disaster:
        measured = "; ".join(each.words for each in record_measures(run, plan, RECOVERED_ACTION)[1])
    if plan is None:
        summary = f"{name}: {failed[0]} failed, nothing was changed" if failed else f"{name}: nothing to do"
    elif outcome is Outcome.REJECTED:
        reason = rejected[0].detail.get("reason") or "no reason given"
        summary = f"{name}: rejected by {rejected[0].actor} ({reason}), nothing was changed"
    elif outcome is Outcome.REFUSED:
        summary = f"{name}: {failed[0]} failed before anything was changed"
    elif not is_disaster:
        moved = bool(known.get("promoted"))
        summary = failback_conclusion(plan, served=served, moved=moved, failed=failed[0] if failed else "")
    else:
        summary = conclusion(plan, served=served, failed=failed[0] if failed else "", measured=measured)
        if known.get("unfenced"):
            summary += f". {', '.join(known['unfenced'])} COULD NOT BE STOPPED: run `failback` once the site is back"
    if amiss:
        summary += f". {amiss}"
        run.note(amiss, "error")
    state = f"{plan.database.new} is the database's primary" if plan and known.get("promoted") else "as before"
    run.record(
        [
            OutcomeFact.model_validate(
                {
                    "outcome": outcome.value,
                    "summary": summary,
                    "state": state,
                    "failed_task": failed[0] if failed else None,
                    "at": datetime.now(UTC),
                }
            )
        ]
    )
    record = ledger.deployments.find(holder.dag_id, holder.run_id)
    if record is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        if plan is not None and (known.get("fenced") or not is_disaster):
            # A lost site's storage is gone with it.
            run.environment = run.environment.at_site(plan.to_site)
        store_evidence(run, record.started_at, is_failed=bool(failed))
    return summary
