"""Moving the primary: planned, with clients held and nothing lost; unplanned, with the old one fenced first.

Every step is told by the estate, so that a killed attempt is gone on with, whatever it had done.
"""

from __future__ import annotations

import time

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Service
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.pair import POLL_SECONDS, Pair, endpoints_that_answer, pair_of
from sebenza_ops.recovery.switch_plan import (
    Kind,
    Loss,
    Stage,
    SwitchPlan,
    SwitchRefusedError,
    position_reached,
    stage_of,
)
from sebenza_ops.recovery.switch_steps import estimate_loss, progress_of, refuse_unready, save_progress
from sebenza_ops.systems.database_server import ServerState, lsn_text
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.ssh import kept_sessions

AUDIT_ACTION = "database.primary_switched"
UNFENCED_ACTION = "database.left_unfenced"
FOLLOW_TIMEOUT_SECONDS = 15.0
REPLAY_TIMEOUT_SECONDS = 20.0


class SwitchFailedError(Exception):
    """The primary was not switched; the message says who is the primary now."""


@kept_sessions()
def switch_over(run: ChangeRun, plan: SwitchPlan) -> str:
    """Carry out a planned switch. Returns a summary.

    Raises:
        SwitchRefusedError: It is not safe any more; nothing was changed.
        SwitchFailedError: It did not succeed; the old primary is the primary again.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: After the promotion: a retry goes on.
    """
    pair = pair_of(run.environment, plan)
    try:
        while (stage := stage_of(plan, pair.states())) is not Stage.PROMOTED:
            ended = _stop_old(run, pair, plan) if stage is Stage.READY else None
            _promote_when_equal(run, pair, plan, ended)
    except FencedOffError:
        raise
    except (OutsideSystemError, SwitchFailedError, SwitchRefusedError) as error:
        if not has_begun(run) or _is_promoted(pair, plan):
            raise
        take_back(run, pair, plan, str(error))
        raise SwitchFailedError(
            f"{error}. {plan.old} is the primary again, nothing is lost. Start a new run."
        ) from error
    return lead_clients(run, pair, plan)


def has_begun(run: ChangeRun) -> bool:
    """Whether clients were held by this run, so that there may be something to take back."""
    return bool(progress_of(run).get("paused_at"))


def _stop_old(run: ChangeRun, pair: Pair, plan: SwitchPlan) -> int | None:
    """Returns the position at which the old one has ended, if its files still say so. Raises SwitchFailedError."""
    if has_begun(run):
        # Of an attempt that was killed while the old one was still the primary.
        pair.on_endpoints(lambda endpoint: endpoint.give_back(run.fence, plan.old, is_primary=True))
        pair.on_endpoints(lambda endpoint: endpoint.pause(run.fence, 0))
        save_progress(run, paused_at={})
    refuse_unready(run, pair, plan.old, plan.new, pair.states(), pair.endpoint_states())
    # Should the ledger go down on the way, the hosts must know whose change this is.
    for name, error in pair.raise_all_tokens(run.fence).items():
        run.note(f"it could not be told the fencing token: {error}", "warning", host=name.partition(" ")[0])
    fence, login, policy = run.fence, pair.replication_login(), pair.policy
    # With little left to write it stops at once.
    pair.on_server(plan.old, lambda server: server.checkpoint(fence))
    source = pair.host(plan.new).address
    # Before it is stopped: whoever starts it again gets a replica.
    pair.on_server(plan.old, lambda server: server.demote(fence, source, login))
    _hold_clients(run, pair)
    stopped = pair.on_server(
        plan.old,
        lambda server: server.stop(fence, policy.drain_timeout_milliseconds, policy.stop_timeout_seconds),
    )
    if not stopped.has_stopped:
        raise SwitchFailedError(f"{plan.old} did not stop within {policy.stop_timeout_seconds} s")
    save_progress(run, broken_off=stopped.broken_off)
    # The shutdown's checkpoint is the last record; who has replayed beyond its beginning has replayed it.
    return stopped.last_record + 1 if stopped.last_record is not None else None


def _hold_clients(run: ChangeRun, pair: Pair) -> None:
    at = pair.on_endpoints(lambda endpoint: endpoint.pause(run.fence, pair.policy.pause_limit_seconds))
    known = progress_of(run).get("paused_at") or {}
    save_progress(run, paused_at={**at, **known})


def _promote_when_equal(run: ChangeRun, pair: Pair, plan: SwitchPlan, ended: int | None) -> None:
    """Raises SwitchFailedError when the new one does not have everything in time."""
    if ended is None:
        _hold_clients(run, pair)
        ended = _await_equal(pair, plan)
    if ended is None:
        return
    replayed = _promote(run, pair, plan, ended)
    detail = f"{plan.old} has ended at {lsn_text(ended)}, and {plan.new} had replayed up to {replayed}"
    run.record([GateFact(name="same_position", verdict="pass", detail=detail, at=utc_now())])


def _await_equal(pair: Pair, plan: SwitchPlan) -> int | None:
    """The position from which on the new one has everything; None when it is the primary already."""
    policy = pair.policy
    give_up_at = time.monotonic() + policy.stop_timeout_seconds
    while True:
        states = pair.states()
        new = states[plan.new]
        if isinstance(new, OutsideSystemError):
            raise new
        reached = position_reached(states[plan.old], new)
        if reached is not None or new.is_primary:
            return reached
        if time.monotonic() > give_up_at:
            raise SwitchFailedError(
                f"{plan.new} is at {lsn_text(new.lsn)} and was not seen to have everything of {plan.old} within "
                f"{policy.stop_timeout_seconds} s"
            )
        time.sleep(POLL_SECONDS)


def _promote(run: ChangeRun, pair: Pair, plan: SwitchPlan, minimum_lsn: int) -> str:
    """Returns the position that the new one had replayed."""
    fence, seconds = run.fence, pair.policy.promote_timeout_seconds
    save_progress(run, state="promoting")
    promoted = pair.on_server(
        plan.new,
        lambda server: server.promote(fence, plan.system_identifier, plan.timeline, minimum_lsn, plan.old, seconds),
    )
    return promoted.replayed


def _is_promoted(pair: Pair, plan: SwitchPlan) -> bool:
    try:
        return stage_of(plan, pair.states()) is Stage.PROMOTED
    except SwitchRefusedError:
        return False


def take_back(run: ChangeRun, pair: Pair, plan: SwitchPlan, why: str) -> None:
    """Make the old one the primary again, of a planned switch that has not promoted the new one; let clients go on.

    Raises SwitchFailedError, OutsideSystemError: then neither may take writes, which the message says.
    """
    run.note(f"taken back: {why}", "error")
    # A promotion that is still on its way must come too late, before anything is started.
    run.refence(pair.policy.lease_ttl_seconds)
    fence = run.fence
    try:
        pair.fence_off(fence, plan.new)
        if pair.state_of(plan.new).is_primary:
            raise SwitchFailedError(f"{plan.new} has become the primary meanwhile: clear this task, it goes on")
    except FencedOffError:
        raise
    except OutsideSystemError as error:
        if progress_of(run).get("state") == "promoting":
            raise SwitchFailedError(
                f"{plan.new} was told to become the primary, and can't be asked whether it is ({error}). NO SERVER "
                "TAKES WRITES until then: make its host answer and clear this task; or, sure that it is down, start a "
                "run of the kind `unplanned`"
            ) from error
    if not pair.state_of(plan.old).is_primary:
        pair.on_services(plan.old, lambda services: services.stop(Service.POSTGRESQL, fence))
        pair.on_server(plan.old, lambda server: server.undemote(fence))
        pair.start_service(plan.old, fence)
    else:
        pair.on_server(plan.old, lambda server: server.undemote(fence))
    pair.await_state(plan.old, lambda state: state.is_primary, "it is the primary again", 60)
    pair.on_endpoints(lambda endpoint: endpoint.give_back(fence, plan.old, is_primary=True))
    pair.on_endpoints(lambda endpoint: endpoint.pause(fence, 0))
    save_progress(run, paused_at={}, state="taken back")
    run.note(f"{plan.old} is the primary again, clients go on", "warning")


def lead_clients(run: ChangeRun, pair: Pair, plan: SwitchPlan) -> str:
    """Lead clients to the new primary, and let those that wait go on. Returns a summary."""
    fence, began = run.fence, time.monotonic()
    resumed = pair.try_endpoints(lambda endpoint: endpoint.lead(fence, plan.old, plan.new))
    run.note(f"is the primary, on a timeline beyond {plan.timeline}", "success", host=plan.new, mark="switch")
    unreachable = [str(answer) for answer in resumed.values() if isinstance(answer, OutsideSystemError)]
    if len(unreachable) == len(resumed):
        raise OutsideSystemError(f"no endpoint could be told that {plan.new} is the primary: {'; '.join(unreachable)}")
    for text in unreachable:
        run.note(f"an endpoint could not be told, it follows by its own check: {text}", "warning")
    while any(state.leads_to != (plan.new,) for state in endpoints_that_answer(pair.endpoint_states())):
        if time.monotonic() - began > FOLLOW_TIMEOUT_SECONDS:
            shown = {state.host: state.leads_to for state in endpoints_that_answer(pair.endpoint_states())}
            raise OutsideSystemError(f"{plan.new} is the primary, but the endpoints lead elsewhere: {shown}")
        time.sleep(POLL_SECONDS)
    known = progress_of(run)
    if known.get("broken_off"):
        run.note(f"{known['broken_off']} sessions did not end in time, and were broken off", "warning", host=plan.old)
    paused = {
        name: at - known["paused_at"][name]
        for name, at in resumed.items()
        if isinstance(at, int) and name in (known.get("paused_at") or {})
    }
    pause_ms = int(known.get("pause_ms") or max(paused.values(), default=0))
    save_progress(run, pause_ms=pause_ms, state="promoted")
    _audit(run, plan, pause_ms)
    waited = f"; clients waited for {pause_ms} ms" if plan.kind is Kind.PLANNED else ""
    run.note(f"clients are led to {plan.new}{waited}", "success")
    return f"{plan.new} is the primary{waited}"


def _audit(run: ChangeRun, plan: SwitchPlan, pause_ms: int) -> None:
    audit, name = run.ledger.audit, run.environment.name
    entries = audit.entries(environment=name, action=AUDIT_ACTION)
    if any(entry.detail.get("run") == str(run.holder) for entry in entries):
        return
    detail = {
        "run": str(run.holder),
        "kind": plan.kind.value,
        "from": plan.old,
        "lost": str(progress_of(run).get("lost") or plan.loss.words),
        "pause_milliseconds": pause_ms,
        "reason": str(run.conf.get("reason", "")),
    }
    audit.append(AUDIT_ACTION, run.holder.actor, name, plan.new, detail)


@kept_sessions()
def fail_over(run: ChangeRun, plan: SwitchPlan, approved_by: str) -> str:
    """Carry out an unplanned switch: fence, measure, promote, lead clients. Returns a summary.

    Raises:
        SwitchRefusedError: The old primary can't be fenced, or the servers are not as planned; nothing was promoted.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host does not answer; a retry goes on.
    """
    pair = pair_of(run.environment, plan)
    is_stopped = fence_old(run, pair, plan, approved_by)
    states = pair.states()
    if stage_of(plan, states) is not Stage.PROMOTED:
        new = _replayed(pair, plan)
        if is_stopped:
            _measure(run, pair, plan, states[plan.old], new)
        _promote(run, pair, plan, plan.lsn)
    return lead_clients(run, pair, plan)


def fence_old(run: ChangeRun, pair: Pair, plan: SwitchPlan, approved_by: str) -> bool:
    """Keep the old primary from taking writes, first of all. Returns whether it is stopped on its host.

    Raises SwitchRefusedError when neither its host nor every endpoint can be reached.
    """
    fence = run.fence
    answers = pair.try_endpoints(lambda endpoint: endpoint.take_away(fence, plan.old))
    unreachable = [str(answer) for answer in answers.values() if isinstance(answer, OutsideSystemError)]
    is_stopped, why = True, ""
    try:
        pair.fence_service(plan.old, fence)
    except FencedOffError:
        raise
    except OutsideSystemError as error:
        is_stopped, why = False, str(error)
    if not is_stopped and unreachable:
        # It may be alive, and only out of our reach.
        pair.try_endpoints(lambda endpoint: endpoint.give_back(fence, plan.old))
        raise SwitchRefusedError(
            f"{plan.old} can't be fenced, nothing was promoted: its host: {why}; endpoints: {'; '.join(unreachable)}. "
            "Reach one of both: its host, or all endpoints"
        )
    stopped = (
        f"{plan.old} is stopped and can't be started" if is_stopped else f"{plan.old} could not be stopped ({why})"
    )
    away = "no client gets there through the endpoint, over restarts too"
    if unreachable:
        away = f"endpoints that could not be told: {'; '.join(unreachable)}"
    verdict = "pass" if is_stopped else "waived"
    fact = {"name": "old_primary_fenced", "verdict": verdict, "detail": f"{stopped}; {away}", "at": utc_now()}
    run.record([GateFact.model_validate(fact)])
    run.note(f"{stopped}; {away}", "success" if is_stopped else "warning", host=plan.old)
    if not is_stopped:
        detail = {"run": str(run.holder), "approved_by": approved_by, "why": why}
        run.ledger.audit.append(UNFENCED_ACTION, run.holder.actor, run.environment.name, plan.old, detail)
    save_progress(run, left_out=not is_stopped)
    return is_stopped


def _replayed(pair: Pair, plan: SwitchPlan) -> ServerState:
    """The new one when it has replayed what it has received. A promotion does the rest, if this takes too long."""
    give_up_at = time.monotonic() + REPLAY_TIMEOUT_SECONDS
    while True:
        new = pair.state_of(plan.new)
        if new.replay_paused or new.receive_lsn is None or new.lsn >= new.receive_lsn or time.monotonic() > give_up_at:
            return new
        time.sleep(POLL_SECONDS)


def _measure(
    run: ChangeRun, pair: Pair, plan: SwitchPlan, old: ServerState | OutsideSystemError, new: ServerState
) -> None:
    """What is lost indeed, now that nothing is written any more."""
    loss: Loss = estimate_loss(pair, old, new, pair.endpoint_states(), plan.kind)
    save_progress(run, lost=loss.words)
    worse = (loss.commits or 0) > (plan.loss.commits or 0) and plan.loss.commits is not None
    level = "warning" if worse or loss.size_bytes != 0 else "success"
    shown = f"; shown before: {plan.loss.words}" if loss.words != plan.loss.words else ""
    run.note(f"lost: {loss.words}{shown}", level)
