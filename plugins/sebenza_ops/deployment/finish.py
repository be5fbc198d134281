"""The end of a deployment, whatever happened before: one live color, the outcome, the evidence."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sebenza_ops.changes import ChangeRun
from sebenza_ops.deployment.baseline import UNWELL
from sebenza_ops.deployment.plan import DeploymentPlan
from sebenza_ops.deployment.progress import Phase, Progress
from sebenza_ops.deployment.proof import prove_by_requests
from sebenza_ops.deployment.roll_out import RollOut
from sebenza_ops.deployment.switch import ReleaseRejectedError, TrafficSwitch, undo_begun
from sebenza_ops.deployment.traffic import PATIENT_TIMEOUT_SECONDS, SplitTrafficError, TrafficControl, colors_now
from sebenza_ops.environments.models import Color, Environment
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.ledger import Outcome
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.application_hosts import ApplicationHost
from sebenza_ops.systems.errors import FencedOffError
from sebenza_ops.systems.fencing import changed_hosts, raise_tokens
from sebenza_ops.systems.ssh import HostSession, on_hosts

log = logging.getLogger(__name__)


def finish_run(
    run: ChangeRun, failed: list[str], *, may_undo: bool = True, remark: str = "", rejected: bool = False
) -> str:
    """Leave one live color, record the outcome, store the evidence. Returns the summary.

    Without `may_undo` traffic and processes stay as they are: a rollback is not taken back by itself. A `remark` says
    what else was changed, or was not; `rejected` that it failed because a person has said no.

    Raises SplitTrafficError, after everything is recorded, when traffic is on two colors and can't be mended from here.
    """
    record = run.ledger.deployments.get(run.holder.dag_id, run.holder.run_id)
    plan = DeploymentPlan.model_validate(record.plan) if record.plan else None
    if failed:
        # An attempt that hangs or is paused must not wake up into what comes next.
        raise_tokens(run.environment, changed_hosts(run.environment), run.fence)
    split = _undo_unproven(run, plan) if plan is not None and failed and may_undo else None
    outcome, summary = _outcome(run, plan, failed, split, remark, rejected)
    holder = run.holder
    run.ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
    store_evidence(run, record.started_at, is_failed=bool(failed))
    if outcome is Outcome.SPLIT:
        raise split or SplitTrafficError(f"SPLIT TRAFFIC: {summary}. Start a run with converge_to.")
    return summary


def end_before_change(run: ChangeRun, failed: list[str]) -> str:
    """Record a run that ended before it held the environment, so that nothing was changed. Returns the summary."""
    holder, name = run.holder, run.environment.name
    record = run.ledger.deployments.find(holder.dag_id, holder.run_id)
    live = live_traffic(run.environment)
    outcome, text = Outcome.SUCCEEDED, "nothing to do"
    said_no = run.ledger.audit.entries(environment=name, action="decision.rejected")
    rejected = [entry for entry in said_no if entry.subject == str(holder)]
    if failed and rejected:
        reason = rejected[0].detail.get("reason") or "no reason given"
        outcome, text = Outcome.REJECTED, f"rejected by {rejected[0].actor} ({reason}), nothing was changed"
    elif failed:
        # A run that is refused at once has no record, and then nothing is kept of it.
        unwell = Progress(run).text(UNWELL) if record is not None else ""
        outcome, text = Outcome.REFUSED, f"{unwell or f'{failed[0]} failed'}, nothing was changed"
    elif run.conf.get("plan_only"):
        outcome, text = Outcome.PLANNED, "planned only, nothing was changed"
    summary = f"{name}: {text}; {live.text}"
    run.record(
        [
            OutcomeFact(
                outcome=outcome.value,
                summary=summary,
                live_color=live.agreed.value if live.agreed else None,
                live_release=None,
                failed_task=failed[0] if failed else None,
                at=datetime.now(UTC),
            )
        ]
    )
    if record is not None:
        run.ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, record.started_at, is_failed=bool(failed))
    return summary


def _undo_unproven(run: ChangeRun, plan: DeploymentPlan) -> SplitTrafficError | None:
    """Take a release back that has not passed. Returns the split that could not be mended, if there is one."""
    progress = Progress(run)
    phase = progress.phase
    if phase is None and plan.strategy == "blue_green":
        _stop_unused_color(run, plan)
    if phase is None or not phase.is_unproven:
        return None
    reason, trigger = "the run ended before the release had passed", None
    if phase is Phase.UNDOING:
        # The way back has begun, and people must learn why, not that it was not finished at first.
        reason, trigger = undo_begun(progress, reason)
    with TrafficControl(run.environment) as control:
        change = (RollOut if plan.strategy == "rolling" else TrafficSwitch)(run, plan, control)
        try:
            change.undo(reason, trigger)
        except ReleaseRejectedError as error:
            log.info("%s", error)
        except SplitTrafficError as error:
            return error
    return None


def _stop_unused_color(run: ChangeRun, plan: DeploymentPlan) -> None:
    """A release that never got traffic must not crash and start again for ever."""
    with TrafficControl(run.environment) as control:
        colors = colors_now(run.environment, control.states(PATIENT_TIMEOUT_SECONDS))
    if any(color is not plan.from_color for color in colors.values()):
        return

    def stop(session: HostSession) -> None:
        host = ApplicationHost(run.environment, session)
        processes = host.state().processes or ()
        name = run.environment.application.process_name(plan.to_color)
        if any(p.name == name and p.cwd.rstrip("/").endswith(plan.release.release_id) for p in processes):
            host.stop(run.fence, plan.to_color)

    hosts = [run.environment.host(name) for name in plan.hosts]
    for name, error in on_hosts(hosts, run.environment.ssh_conn_id, stop).items():
        if isinstance(error, FencedOffError):
            raise error
        if error is not None:
            run.note(f"the unused {plan.to_color} could not be stopped: {error}", "warning", host=name)


@dataclass(frozen=True)
class LiveTraffic:
    """The color that each load balancer sends to, or None where it can't be told.

    Known by its runtime, or by its answers to requests where it can't be asked.
    """

    colors: Mapping[str, Color | None]

    @property
    def agreed(self) -> Color | None:
        """The color that all of them send to; None when they differ or one is unknown."""
        distinct = set(self.colors.values())
        return next(iter(distinct)) if len(distinct) == 1 else None

    @property
    def is_split(self) -> bool:
        """Whether two of them are known to send to different colors."""
        return len({color for color in self.colors.values() if color is not None}) > 1

    @property
    def text(self) -> str:
        """In words."""
        if self.agreed is not None:
            return f"all load balancers send to {self.agreed}"
        if not any(self.colors.values()):
            return "no load balancer tells where it sends"
        shown = ", ".join(f"{name} {color or 'unknown'}" for name, color in self.colors.items())
        return f"load balancers {'DISAGREE' if self.is_split else 'send to'}: {shown}"


def live_traffic(environment: Environment) -> LiveTraffic:
    """Ask the load balancers, and those that do not answer as a user would."""
    with TrafficControl(environment) as control:
        colors = colors_now(environment, control.states(PATIENT_TIMEOUT_SECONDS))
    for name in [name for name, color in colors.items() if color is None]:
        for color in Color:
            if prove_by_requests(environment, color, None, 2)[name].passed:
                colors[name] = color
    return LiveTraffic(colors)


def _outcome(
    run: ChangeRun,
    plan: DeploymentPlan | None,
    failed: list[str],
    split: SplitTrafficError | None,
    remark: str,
    rejected: bool,
) -> tuple[Outcome, str]:
    live = live_traffic(run.environment)
    outcome, summary = judge_outcome(
        run.environment.name,
        plan,
        failed,
        live,
        plan_only=bool(run.conf.get("plan_only")),
        undo_reason=_undo_reason(run),
        unwell=Progress(run).text(UNWELL),
        split=str(split) if split else "",
    )
    if outcome is Outcome.FAILED and rejected:
        outcome = Outcome.REJECTED
    summary = f"{summary}. {remark}" if remark else summary
    run.record(
        [
            OutcomeFact(
                outcome=outcome.value,
                summary=summary,
                live_color=live.agreed.value if live.agreed else None,
                live_release=_live_release(run, plan, live),
                failed_task=failed[0] if failed else None,
                at=datetime.now(UTC),
            )
        ]
    )
    return outcome, summary


def _live_release(run: ChangeRun, plan: DeploymentPlan | None, live: LiveTraffic) -> str | None:
    if plan is None or live.agreed is None:
        return None
    if plan.strategy == "blue_green":
        return plan.release.release_id if live.agreed is plan.to_color else plan.from_release
    # Between the first host and the last one there is no single answer.
    phase = Progress(run).phase
    return {Phase.BAKED: plan.release.release_id, Phase.UNDONE: plan.from_release, None: plan.from_release}.get(phase)


def _undo_reason(run: ChangeRun) -> str:
    progress = Progress(run)
    return progress.text("undo_reason", "undone") if progress.phase is Phase.UNDONE else ""


def judge_outcome(
    name: str,
    plan: DeploymentPlan | None,
    failed: Sequence[str],
    live: LiveTraffic,
    *,
    plan_only: bool = False,
    undo_reason: str = "",
    unwell: str = "",
    split: str = "",
) -> tuple[Outcome, str]:
    """How a run ended, and its summary for people.

    Args:
        name: The environment.
        plan: The run's plan; None when it came to none.
        failed: The tasks that failed.
        live: Where traffic goes now.
        plan_only: The run was to plan only.
        undo_reason: Why the release was taken back; empty when it was not.
        unwell: Why traffic was not moved at all, the live release being beyond a trigger already; empty otherwise.
        split: The error of a way back that did not succeed; empty otherwise.
    """
    if split or live.is_split:
        return Outcome.SPLIT, split or f"{name}: {failed[0] if failed else 'the run has ended'}; {live.text}"
    if failed and plan is None and unwell:
        return Outcome.REFUSED, f"{name}: nothing was changed, {unwell}; {live.text}"
    if failed and plan is None:
        return Outcome.REFUSED, f"{name}: {failed[0]} failed before anything was changed; {live.text}"
    if failed and plan is not None and undo_reason:
        return Outcome.ROLLED_BACK, f"{name}: {plan.release.release_id} was taken back ({undo_reason}); {live.text}"
    if failed and unwell:
        return Outcome.REFUSED, f"{name}: traffic was not moved, {unwell}; {live.text}"
    if failed:
        return Outcome.FAILED, f"{name}: {failed[0]} failed; {live.text}"
    if plan is None:
        return Outcome.SUCCEEDED, f"{name}: nothing to do; {live.text}"
    if plan_only:
        return Outcome.PLANNED, f"{name}: planned only, nothing was changed; {live.text}"
    return Outcome.SUCCEEDED, f"{name}: {plan.release.release_id} is live on {plan.to_color}; {live.text}"
