"""The beginning of a switch of the primary: its lease, its plan, and what people are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.evidence.facts import GateFact, utc_now
from sebenza_ops.ledger import LedgerUnavailable
from sebenza_ops.recovery.pair import Pair
from sebenza_ops.recovery.switch_plan import (
    EndpointStates,
    Kind,
    Loss,
    ServerStates,
    SwitchPlan,
    SwitchRefusedError,
    describe,
    find_pair,
    loss_by_position,
    loss_by_time,
    loss_by_wal,
    warnings_of,
    why_not_ready,
)
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.fencing import SeenToken, changed_hosts, read_tokens
from sebenza_ops.systems.ssh import kept_sessions

STRATEGY = "switch_primary"
GATE = "database_switch"
# Under this the run's progress has how far it has come.
PROGRESS = "database_switch"


def start_record(run: ChangeRun, kind: Kind, plan: Mapping[str, Any] | None = None) -> None:
    """Make the run's record where there is none; one that has a plan stays with it, tried again or cleared."""
    deployments, holder = run.ledger.deployments, run.holder
    known = deployments.find(holder.dag_id, holder.run_id)
    if known is None or (plan is None and known.finished_at is not None):
        kept = dict(known.progress) if known is not None else {}
        words = f"{kind.value} switch of the database's primary"
        deployments.start(run.environment.name, holder.dag_id, holder.run_id, holder.actor, words, None, STRATEGY)
        for key, value in kept.items():
            deployments.set_progress(holder.dag_id, holder.run_id, key, value)
    if plan and known is None:
        deployments.update(holder.dag_id, holder.run_id, plan=plan)


def progress_of(run: ChangeRun) -> dict[str, Any]:
    """How far the switch of this run has come. A ledger that is down knows nothing."""
    try:
        record = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    except LedgerUnavailable:
        return {}
    return dict((record.progress if record is not None else {}).get(PROGRESS) or {})


def save_progress(run: ChangeRun, **values: Any) -> None:
    """Keep values over kills. A ledger that is down stops no switch: the estate says how far it has come."""
    holder = run.holder
    try:
        run.ledger.deployments.set_progress(holder.dag_id, holder.run_id, PROGRESS, {**progress_of(run), **values})
    except LedgerUnavailable as error:
        run.note(f"not kept in the ledger, which is down: {', '.join(values)} ({error})", "warning")


def planned_before(run: ChangeRun) -> SwitchPlan | None:
    """The plan that the run has chosen already."""
    record = run.ledger.deployments.find(run.holder.dag_id, run.holder.run_id)
    return SwitchPlan.model_validate(record.plan) if record is not None and record.plan else None


def take_lease(run: ChangeRun, kind: Kind, purpose: str, reason: str, ttl_seconds: float) -> None:
    """Take the lease: a planned switch when it is free, an unplanned one from whoever holds it.

    Raises ChangeRefusedError.
    """
    if kind is Kind.PLANNED and run.is_journaled:
        raise ChangeRefusedError("the ledger is down: a planned switch waits for it. Nothing was changed.")
    pair = Pair(run.environment)
    hosts = (*changed_hosts(run.environment), *pair.endpoint_hosts, *pair.hosts)
    answers = read_tokens(run.environment, hosts).values()
    seen = max((answer.token for answer in answers if isinstance(answer, SeenToken)), default=0)
    if kind is Kind.PLANNED:
        # It can wait for others, and for the end of a freeze.
        run.is_emergency = False
        lease = run.acquire(purpose, ttl_seconds, seen, respect_freeze=True)
        run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
        return
    former = run.ledger.leases.current(run.environment.name)
    lease = run.take_over(purpose, reason, ttl_seconds, seen)
    run.note(f"{purpose}: lease taken by {run.holder.actor}, fencing token {lease.token}")
    for name, error in pair.raise_all_tokens(run.fence).items():
        run.note(f"it could not be told the fencing token: {error}", "warning", host=name.partition(" ")[0])
    if former is not None and not former.holder.is_run(run.holder):
        run.note(f"{former.holder} was fenced off: it held the lease for {former.purpose}", "warning")
    if run.is_journaled:
        run.note("the ledger is down: this run keeps a journal", "warning")


@kept_sessions()
def plan_switch(run: ChangeRun, kind: Kind) -> SwitchPlan:
    """Find out who is what, whether the switch may be, and what would be lost. Changes nothing but the ledger.

    Raises:
        SwitchRefusedError: It may not be.
        NothingToSwitchError: It is so already.
        OutsideSystemError: The server that would take over can't be asked.
    """
    known = planned_before(run)
    if known is not None:
        run.note(f"this run has chosen already: {known.new} in place of {known.old}")
        return known
    pair = Pair(run.environment)
    endpoints = pair.settled_endpoint_states() if kind is Kind.PLANNED else pair.endpoint_states()
    states = pair.states()
    for name, state in states.items():
        run.note(describe(state), host=name)
    old, new = find_pair(kind, states)
    chosen = states[new]
    if isinstance(chosen, OutsideSystemError):
        raise chosen
    if kind is Kind.PLANNED:
        refuse_unready(run, pair, old, new, states, endpoints)
    former = states[old]
    loss = Loss(size_bytes=0, basis="it has everything before it takes over")
    if kind is not Kind.PLANNED:
        loss = estimate_loss(pair, former, chosen, endpoints, kind)
    history = former.timeline if isinstance(former, ServerState) and kind is not Kind.REJOIN else chosen.timeline
    plan = SwitchPlan(
        environment=run.environment.name,
        kind=kind,
        old=old,
        new=new,
        system_identifier=chosen.system_identifier,
        timeline=min(history, chosen.timeline),
        lsn=chosen.lsn,
        loss=loss,
        old_words=describe(former),
        new_words=chosen.words,
        old_reachable=isinstance(former, ServerState),
        warnings=warnings_of(kind, former, chosen),
    )
    run.ledger.deployments.update(run.holder.dag_id, run.holder.run_id, plan=plan.model_dump(mode="json"))
    if kind is not Kind.REJOIN:
        run.note(f"planned: {new} in place of {old}; would be lost: {loss.words}")
    else:
        run.note(f"planned: {old} follows {new}; discarded on it: {loss.words}")
    return plan


def refuse_unready(
    run: ChangeRun, pair: Pair, old: str, new: str, states: ServerStates, endpoints: EndpointStates
) -> None:
    """Record whether a planned switch is safe now. Raises SwitchRefusedError with everything that is not right."""
    slot = run.environment.database.slot_of(new)
    problems = why_not_ready(old, new, states, endpoints, slot, pair.policy.maximum_lag_bytes)
    verdict, detail = "pass", f"{new} streams from {old}, and the endpoint leads to {old}"
    if problems:
        verdict, detail = "fail", "; ".join(problems)
    run.record([GateFact.model_validate({"name": GATE, "verdict": verdict, "detail": detail, "at": utc_now()})])
    if problems:
        raise SwitchRefusedError(f"nothing was changed, the switch would not be safe: {detail}")


def estimate_loss(
    pair: Pair, old: ServerState | OutsideSystemError, new: ServerState, endpoints: EndpointStates, kind: Kind
) -> Loss:
    """What the new one does not have, as well as it can be told now."""
    if isinstance(old, OutsideSystemError):
        return loss_by_time(new, endpoints, old=_other(pair, new.host), why=f"{old.host} can't be reached")
    if old.running == "yes":
        if kind is Kind.REJOIN and old.is_standby:
            return Loss(basis="it is a replica that does not follow; what it has alone is kept")
        return loss_by_position(old, new)
    if kind is Kind.REJOIN:
        return Loss(basis="what it has alone is kept beside it")
    try:
        end = pair.on_server(old.host, lambda server: server.wal_end(old.timeline, new.lsn))
    except OutsideSystemError as error:
        return loss_by_time(new, endpoints, old.host, why=f"its WAL can't be read ({error})")
    return loss_by_wal(end, new)


def _other(pair: Pair, name: str) -> str:
    return next(host.name for host in pair.hosts if host.name != name)


def excluded_people(run: ChangeRun) -> dict[str, str]:
    """Who may not approve: the requester, where the policy says so."""
    policy = run.environment.policies.approvals
    return {run.holder.actor: "requester"} if policy is not None and policy.exclude_requester else {}
