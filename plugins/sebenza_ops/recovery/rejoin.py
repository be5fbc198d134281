"""The old primary as the new one's replica: by itself, rewound, or copied anew beside; and the proof of the pair."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.recovery.pair import Pair, endpoints_that_answer, pair_of
from sebenza_ops.recovery.switch_over import fence_old
from sebenza_ops.recovery.switch_plan import Kind, SwitchPlan, follows, server_states
from sebenza_ops.recovery.switch_steps import progress_of, save_progress
from sebenza_ops.systems.database_server import RebuildStatus, ServerState, segment_name
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.ssh import kept_sessions

AUDIT_ACTION = "database.replica_rejoined"
# A replica that was started tries again every five seconds (PostgreSQL, wal_retrieve_retry_interval).
STREAM_TIMEOUT_SECONDS = 30.0
CANARY_TIMEOUT_SECONDS = 20
POLL_SECONDS = 1.0


class RejoinFailedError(Exception):
    """The old primary does not follow; the new one works without a replica."""


class NotProvenError(Exception):
    """What the switch should have left was not found."""


@kept_sessions()
def rejoin(run: ChangeRun, plan: SwitchPlan, approved_by: str) -> str:
    """Make the old primary a replica. Returns how.

    Raises:
        RejoinFailedError: It can't be made one; what it had is kept.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: The new primary does not answer; a retry goes on.
    """
    pair = pair_of(run.environment, plan)
    new = pair.state_of(plan.new)
    if not new.is_primary:
        raise RejoinFailedError(f"{plan.new} is no primary to follow: it is {new.words}")
    fence, login = run.fence, pair.replication_login()
    pair.on_server(plan.new, lambda server: server.checkpoint(fence, login.user, plan.old))
    try:
        old = pair.state_of(plan.old)
    except HostUnreachableError as error:
        return _left_out(run, plan, error)
    how = "it follows by itself"
    if not _streams(pair, plan, old, new):
        how = _rebuild(run, pair, plan, new, approved_by)
    if pair.on_server(plan.old, lambda server: server.drop_slot(fence, plan.new)) == "dropped":
        run.note(f"the slot of {plan.new} is dropped: unused, it would keep WAL for ever", host=plan.old)
    # It gets clients only when its check passes, which is when it is a primary again.
    pair.on_endpoints(lambda endpoint: endpoint.give_back(fence, plan.old))
    save_progress(run, left_out=False, rejoined=how)
    _audit(run, plan, how)
    run.note(f"{plan.old} is the replica of {plan.new}: {how}", "success")
    return how


def _key_of(run: ChangeRun) -> str:
    """The run as a name for a file or a table."""
    return hashlib.sha256(f"{run.holder.dag_id} {run.holder.run_id}".encode()).hexdigest()[:12]


def _left_out(run: ChangeRun, plan: SwitchPlan, error: HostUnreachableError) -> str:
    if plan.kind is not Kind.UNPLANNED:
        raise RejoinFailedError(f"{error}. {plan.new} works without a replica; clear this task once it is back")
    save_progress(run, left_out=True)
    text = f"is left out, {plan.new} works without a replica ({error}). Once it is back, run the kind `rejoin`"
    run.note(text, "warning", host=plan.old)
    return "left out"


def _streams(pair: Pair, plan: SwitchPlan, old: ServerState, new: ServerState) -> bool:
    """Whether it follows by itself, started where a planned switch has stopped it."""
    if follows(old, new):
        return True
    if plan.kind is not Kind.PLANNED:
        return False
    if old.running == "no" and not old.has_signal:
        return False
    try:
        pair.await_state(plan.old, lambda state: follows(state, new), "it follows", 3)
    except OutsideSystemError:
        if pair.state_of(plan.old).running != "no":
            return _comes(pair, plan, new)
    else:
        return True
    return False


def _comes(pair: Pair, plan: SwitchPlan, new: ServerState) -> bool:
    try:
        pair.await_state(plan.old, lambda state: follows(state, new), "it follows", STREAM_TIMEOUT_SECONDS)
    except FencedOffError:
        raise
    except OutsideSystemError:
        return False
    return True


def _rebuild(run: ChangeRun, pair: Pair, plan: SwitchPlan, new: ServerState, approved_by: str) -> str:
    fence = run.fence
    if plan.kind is Kind.PLANNED:
        old = pair.state_of(plan.old)
        if old.running == "no" and old.has_signal:
            # Where the service manager does not start it again by itself.
            pair.start_service(plan.old, fence)
            if _comes(pair, plan, new):
                return "started again, it follows"
        run.note("it does not follow by itself, and is rebuilt", "warning", host=plan.old)
    fence_old(run, pair, plan, approved_by)
    old = pair.state_of(plan.old)
    job = _key_of(run)
    login, source = pair.replication_login(), pair.host(plan.new).address
    # What it alone has begins at the fork, which is not before what the new one had when it was planned.
    fork = "" if plan.kind is Kind.REJOIN else segment_name(plan.timeline, plan.lsn)
    if plan.kind is Kind.REJOIN and old.timeline < new.timeline:
        fork = segment_name(old.timeline, old.checkpoint_lsn)
    started = pair.on_server(
        plan.old,
        lambda server: server.start_rebuild(
            fence,
            job,
            source,
            login,
            fork_segment=fork,
            need_bytes=new.size_bytes * 11 // 10,
            rewind=old.rewindable,
        ),
    )
    run.note(f"rebuild {started}, from {plan.new}", host=plan.old)
    status = _await_rebuild(pair, plan, job)
    kept = f"; what it had alone is kept in {status.kept}" if status.kept else ""
    how = f"{'rewound' if status.method == 'rewind' else 'copied anew'} in {status.seconds:.0f} s{kept}"
    pair.start_service(plan.old, fence)
    if not _comes(pair, plan, new):
        raise RejoinFailedError(f"{plan.old} was {how}, but it does not follow: {pair.state_of(plan.old).words}")
    return how


def _await_rebuild(pair: Pair, plan: SwitchPlan, job: str) -> RebuildStatus:
    give_up_at = time.monotonic() + pair.policy.rebuild_timeout_seconds
    while True:
        status = pair.on_server(plan.old, lambda server: server.rebuild_status(job))
        if status.state == "done":
            return status
        if status.state != "running":
            reason = status.log_tail or "it was killed"
            raise RejoinFailedError(
                f"{plan.old} could not be rebuilt, it stays stopped: {reason}. Mend it, and clear this task"
            )
        if time.monotonic() > give_up_at:
            raise RejoinFailedError(f"rebuilding {plan.old} did not end in {pair.policy.rebuild_timeout_seconds} s")
        time.sleep(POLL_SECONDS)


def _audit(run: ChangeRun, plan: SwitchPlan, how: str) -> None:
    audit, name = run.ledger.audit, run.environment.name
    entries = audit.entries(environment=name, action=AUDIT_ACTION)
    if not any(entry.detail.get("run") == str(run.holder) for entry in entries):
        detail: dict[str, Any] = {"run": str(run.holder), "primary": plan.new, "how": how}
        audit.append(AUDIT_ACTION, run.holder.actor, name, plan.old, detail)


@kept_sessions()
def verify(run: ChangeRun, plan: SwitchPlan) -> str:
    """Prove what is, by two sources: the servers and endpoints themselves, and a row that goes the application's way.

    Raises NotProvenError.
    """
    pair = pair_of(run.environment, plan)
    is_left_out = bool(progress_of(run).get("left_out"))
    states = server_states(pair.states())
    wrong = []
    if [name for name, state in states.items() if state.is_primary] != [plan.new]:
        wrong.append("; ".join(f"{name} is {state.words}" for name, state in states.items()))
    for state in endpoints_that_answer(pair.endpoint_states()):
        if state.leads_to != (plan.new,) or state.is_paused:
            wrong.append(
                f"{state.host} leads to {', '.join(state.leads_to) or 'nobody'}{' and is paused' * state.is_paused}"
            )
        if is_left_out and plan.old not in state.stays_away:
            wrong.append(f"{plan.old} would get clients again after a restart of {state.host}")
    _gate(run, "one_primary", wrong, f"{plan.new} alone is a primary, and every endpoint leads to it")
    # Of a killed attempt the table is found again, and goes.
    table, token, login = f"sebenza_canary_{_key_of(run)}", f"t{run.fence.token}", pair.application_login()
    pair.on_server(plan.new, lambda server: server.write_canary(login, table, token))
    try:
        hosts = [plan.new] if is_left_out else [plan.new, plan.old]
        lacking = [
            name
            for name in hosts
            if not pair.on_server(name, lambda server: server.has_canary(table, token, CANARY_TIMEOUT_SECONDS))
        ]
    finally:
        pair.on_server(plan.new, lambda server: server.drop_canary(login, table))
    wrong = [f"{name} does not have the row that was written through the endpoint" for name in lacking]
    detail = f"a row that was written through the endpoint is on {' and '.join(hosts)}"
    _gate(run, "canary", wrong, detail)
    run.note(f"proven: {plan.new} alone is the primary; {detail}", "success")
    return detail


def _gate(run: ChangeRun, name: str, wrong: list[str], good: str) -> None:
    verdict, detail = ("fail", "; ".join(wrong)) if wrong else ("pass", good)
    run.record([GateFact.model_validate({"name": name, "verdict": verdict, "detail": detail, "at": utc_now()})])
    if wrong:
        raise NotProvenError(f"{name}: {detail}")
