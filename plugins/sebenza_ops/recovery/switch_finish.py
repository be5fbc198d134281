"""The end of a switch of the primary, whatever happened before: clients go on, the outcome, the evidence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.ledger import Outcome
from sebenza_ops.recovery.pair import pair_of
from sebenza_ops.recovery.switch_over import SwitchFailedError, has_begun, take_back
from sebenza_ops.recovery.switch_plan import Kind, Stage, SwitchPlan, SwitchRefusedError, conclusion, stage_of
from sebenza_ops.recovery.switch_steps import planned_before, progress_of
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.ssh import kept_sessions


def judge(
    failed: Sequence[str], stage: Stage | None, *, plan_only: bool, has_plan: bool, has_changed: bool, rejected: bool
) -> Outcome:
    """How a run ended.

    Args:
        failed: The tasks that failed.
        stage: How far the switch has come; None when that can't be told, or it was none.
        plan_only: The run was to plan only.
        has_plan: It came to a plan.
        has_changed: It has held the lease after people had decided, so that something may be changed.
        rejected: A person has said no.
    """
    if rejected:
        return Outcome.REJECTED
    if failed and (not has_plan or not has_changed):
        return Outcome.REFUSED
    if failed:
        return Outcome.ROLLED_BACK if stage is Stage.READY and has_changed else Outcome.FAILED
    return Outcome.PLANNED if plan_only else Outcome.SUCCEEDED


@kept_sessions()
def settle(run: ChangeRun, plan: SwitchPlan) -> Stage | None:
    """Nobody is held any more, and a planned switch that did not come to a promotion is taken back."""
    pair = pair_of(run.environment, plan)
    stage: Stage | None = None
    try:
        stage = stage_of(plan, pair.states())
    except SwitchRefusedError as error:
        run.note(str(error), "error")
    if plan.kind is Kind.PLANNED and stage is not Stage.PROMOTED and has_begun(run):
        try:
            take_back(run, pair, plan, "the run ended before the new primary was promoted")
            stage = stage_of(plan, pair.states())
        except (OutsideSystemError, SwitchFailedError, SwitchRefusedError) as error:
            run.note(f"could not be taken back: {error}", "error")
    for name, answer in pair.try_endpoints(lambda endpoint: endpoint.pause(run.fence, 0)).items():
        if isinstance(answer, OutsideSystemError):
            run.note(
                f"whether clients wait there could not be seen to, they do no longer than the limit: {answer}",
                "warning",
                host=name,
            )
    return stage


def finish_switch(run: ChangeRun, failed: Sequence[str], *, plan_only: bool, may_settle: bool) -> str:
    """Record the outcome and store the evidence. Returns the summary."""
    holder, ledger, name = run.holder, run.ledger, run.environment.name
    plan, known = planned_before(run), progress_of(run)
    stage = settle(run, plan) if plan is not None and may_settle and plan.kind is not Kind.REJOIN else None
    said_no = ledger.audit.entries(environment=name, action="decision.rejected")
    rejected = [entry for entry in said_no if entry.subject == str(holder)]
    outcome = judge(
        failed,
        stage,
        plan_only=plan_only,
        has_plan=plan is not None,
        has_changed=bool(known) or stage is Stage.PROMOTED,
        rejected=bool(failed and rejected),
    )
    summary = _summary(run, plan, failed, stage, outcome)
    if outcome is Outcome.REJECTED:
        reason = rejected[0].detail.get("reason") or "no reason given"
        summary = f"{name}: rejected by {rejected[0].actor} ({reason}), nothing was changed"
    run.record(
        [
            OutcomeFact.model_validate(
                {
                    "outcome": outcome.value,
                    "summary": summary,
                    "state": _state_words(plan, stage),
                    "failed_task": failed[0] if failed else None,
                    "at": datetime.now(UTC),
                }
            )
        ]
    )
    record = ledger.deployments.find(holder.dag_id, holder.run_id)
    if record is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, record.started_at, is_failed=bool(failed))
    return summary


def _state_words(plan: SwitchPlan | None, stage: Stage | None) -> str:
    if plan is None:
        return "the database's primary is as it was"
    if plan.kind is Kind.REJOIN or stage is Stage.PROMOTED:
        return f"{plan.new} is the database's primary"
    if stage is Stage.STOPPED:
        return "no database server takes writes"
    return f"{plan.old} is the database's primary, as before" if plan.kind is Kind.PLANNED else "nothing was promoted"


def _summary(
    run: ChangeRun, plan: SwitchPlan | None, failed: Sequence[str], stage: Stage | None, outcome: Outcome
) -> str:
    name, known = run.environment.name, progress_of(run)
    if plan is None:
        text = f"{failed[0]} failed, nothing was changed" if failed else "nothing to do"
        return f"{name}: {text}"
    if outcome is Outcome.REFUSED:
        return f"{name}: {failed[0]} failed before anything was changed"
    if outcome is Outcome.PLANNED:
        return f"{name}: planned only, nothing was changed; lost would be: {plan.loss.words}"
    text = conclusion(
        plan, failed, stage, is_left_out=bool(known.get("left_out")), pause_ms=int(known.get("pause_ms") or 0)
    )
    if known.get("lost") and known["lost"] != plan.loss.words:
        text += f"; measured after it was stopped: {known['lost']}"
    return text
