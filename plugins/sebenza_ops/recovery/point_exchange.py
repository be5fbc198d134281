"""Putting a restored cluster in the place of the running one: clients held, the old one kept, or all taken back.

Every step is told by the host, so that a killed attempt is gone on with, whatever it had done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Service
from sebenza_ops.recovery.pair import POLL_SECONDS, Pair, endpoints_that_answer
from sebenza_ops.recovery.point_plan import PointPlan, find_primary, on_archive
from sebenza_ops.recovery.point_steps import RestoredPoint, record_of
from sebenza_ops.recovery.switch_over import FOLLOW_TIMEOUT_SECONDS
from sebenza_ops.recovery.switch_plan import Kind, Loss, SwitchPlan
from sebenza_ops.systems.database_server import ServerState
from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError
from sebenza_ops.systems.point_restore import PointRestore
from sebenza_ops.systems.ssh import kept_sessions, open_session
from sebenza_ops.systems.wal_archive import Rows

AUDIT_ACTION = "database.restored_to_point"
START_TIMEOUT_SECONDS = 120.0
Result = TypeVar("Result")


class ExchangeFailedError(Exception):
    """The restored cluster did not take its place; the message says which one is the server now."""


def restore_point_before(plan: PointPlan) -> str:
    """The name of the restore point that is set right before the exchange."""
    return f"sebenza_before_{plan.key[:12]}"


@kept_sessions()
def exchange(run: ChangeRun, plan: PointPlan, restored: RestoredPoint, approved_by: str) -> str:
    """Put the restored cluster in the place of the running one. Returns a summary.

    Raises:
        ExchangeFailedError: It did not work, and the former one is the server again; or can't be, which it says.
        FencedOffError: A later change holds the environment.
        OutsideSystemError: A host does not answer, after the exchange: a retry goes on.
    """
    pair = Pair(run.environment)
    try:
        if not is_in(pair, plan, restored):
            _prepare(run, pair, plan)
            _move(run, pair, plan)
            pair.start_service(plan.host, run.fence)
            pair.await_state(
                plan.host,
                lambda state: state.is_primary and state.timeline >= restored.timeline,
                "the restored cluster takes writes",
                START_TIMEOUT_SECONDS,
            )
    except FencedOffError:
        raise
    except (OutsideSystemError, ExchangeFailedError) as error:
        if not record_of(run).progress().get("exchanging"):
            raise ExchangeFailedError(f"{error}. Nothing was exchanged") from error
        take_back(run, pair, plan, str(error))
        raise ExchangeFailedError(f"{error}. The database is as it was before; start a new run") from error
    record_of(run).save(state="swapped")
    return _let_clients_in(run, pair, plan, restored, approved_by)


def is_in(pair: Pair, plan: PointPlan, restored: RestoredPoint) -> bool:
    """Whether the restored cluster is the server already."""
    state = _state(pair, plan)
    return state is not None and state.is_primary and restored.timeline <= state.timeline != plan.timeline


def _state(pair: Pair, plan: PointPlan) -> ServerState | None:
    """The server; None between the two moves of the directories. Raises HostUnreachableError."""
    try:
        return pair.state_of(plan.host)
    except (FencedOffError, HostUnreachableError):
        raise
    except OutsideSystemError:
        return None


def on_copy(run: ChangeRun, plan: PointPlan, action: Callable[[PointRestore], Result]) -> Result:
    """Do something with the restored copy on its host."""
    with open_session(run.environment.host(plan.host), str(run.environment.database.ssh_conn_id)) as session:
        return action(PointRestore(run.environment, session, plan.key))


def _prepare(run: ChangeRun, pair: Pair, plan: PointPlan) -> None:
    """Make sure that it is the same server as planned, and that what it has now can be come back to."""
    state, record = _state(pair, plan), record_of(run)
    if state is None or not state.is_primary:
        if record.progress().get("exchanging"):
            return
        raise ExchangeFailedError(
            f"{plan.host} is no primary any more ({state.words if state else 'there is no cluster'}): nothing was "
            "exchanged. Start a new run"
        )
    primary, _ = find_primary(run.environment)
    if (primary.host, primary.system_identifier, primary.timeline) != (
        plan.host,
        plan.system_identifier,
        plan.timeline,
    ):
        raise ExchangeFailedError(
            f"the primary is not the one that was planned for: {primary.host} is {primary.words}. Start a new run"
        )
    # Should the ledger go down on the way, the hosts must know whose change this is.
    for name, error in pair.raise_all_tokens(run.fence).items():
        run.note(f"it could not be told the fencing token: {error}", "warning", host=name.partition(" ")[0])
    backup = run.ledger.leases.current(f"{plan.environment}.backup")
    if backup is not None:
        run.note(f"{backup.holder} works on a backup, which fails now: start it again afterwards", "warning")
    if not record.progress().get("restore_point"):
        name = restore_point_before(plan)
        with on_archive(run, plan.host) as ways:
            position = ways.archive.mark(run.fence, name)
            try:
                ways.pgbackrest.check()
            except OutsideSystemError as error:
                run.note(f"what is written now could not be archived, the old directory has it: {error}", "warning")
        record.save(restore_point=name)
        run.note(f"restore point {name} at {position}: timeline {plan.timeline} can be restored to it", host=plan.host)
    record.save(exchanging=True)


def _move(run: ChangeRun, pair: Pair, plan: PointPlan) -> None:
    """Hold clients, stop the server so that nobody starts it, and exchange the directories."""
    answers = pair.try_endpoints(lambda endpoint: endpoint.pause(run.fence, pair.policy.pause_limit_seconds))
    for name, answer in answers.items():
        if isinstance(answer, OutsideSystemError):
            run.note(f"clients could not be held, they get errors: {answer}", "warning", host=name)
    at = {name: answer for name, answer in answers.items() if isinstance(answer, int)}
    record_of(run).save(paused_at={**at, **(record_of(run).progress().get("paused_at") or {})})
    if on_copy(run, plan, lambda copy: copy.stage()) == "before":
        # Of the former cluster alone: it must not come back as a primary, and the restored one must.
        pair.fence_service(plan.host, run.fence)
        run.note("stopped, and kept from starting; clients wait", host=plan.host, mark="switch")
    done = on_copy(run, plan, lambda copy: copy.swap(run.fence, plan.system_identifier))
    kept = on_copy(run, plan, lambda copy: copy.aside)
    record_of(run).save(kept=kept)
    run.note(f"{done}: the former data directory is kept as {kept}", "success", host=plan.host)


def take_back(run: ChangeRun, pair: Pair, plan: PointPlan, why: str) -> None:
    """Make the former cluster the server again; let clients go on.

    Raises ExchangeFailedError when that can't be done: then no server takes writes, which it says.
    """
    run.note(f"taken back: {why}", "error")
    try:
        pair.fence_off(run.fence, plan.host)
        state = _state(pair, plan)
        if not (state is not None and state.is_primary and state.timeline == plan.timeline):
            if state is not None:
                pair.on_services(plan.host, lambda services: services.fence(Service.POSTGRESQL, run.fence))
            on_copy(run, plan, lambda copy: copy.unswap(run.fence))
            pair.on_server(plan.host, lambda server: server.undemote(run.fence))
            pair.start_service(plan.host, run.fence)
        else:
            pair.on_server(plan.host, lambda server: server.undemote(run.fence))
        pair.await_state(plan.host, lambda found: found.is_primary, "it is the primary again", START_TIMEOUT_SECONDS)
        pair.on_endpoints(lambda endpoint: endpoint.give_back(run.fence, plan.host, is_primary=True))
        pair.on_endpoints(lambda endpoint: endpoint.pause(run.fence, 0))
    except FencedOffError:
        raise
    except OutsideSystemError as error:
        raise ExchangeFailedError(
            f"{why}; and taking it back failed: {error}. NO SERVER TAKES WRITES on {plan.host}: mend what it says and "
            "clear this task. What was there before is kept beside the data directory"
        ) from error
    record_of(run).save(exchanging=False, state="taken back")
    run.note("the former cluster is the server again, clients go on", "warning", host=plan.host)


def _let_clients_in(run: ChangeRun, pair: Pair, plan: PointPlan, restored: RestoredPoint, approved_by: str) -> str:
    fence, began = run.fence, time.monotonic()
    pair.on_endpoints(lambda endpoint: endpoint.give_back(fence, plan.host, is_primary=True))
    resumed, known = pair.on_endpoints(lambda endpoint: endpoint.pause(fence, 0)), record_of(run).progress()
    paused_at = known.get("paused_at") or {}
    waits = [at - paused_at[name] for name, at in resumed.items() if name in paused_at]
    # Tried again, clients are let in already.
    waited_ms = int(known.get("waited_ms") or max(waits, default=0))
    record_of(run).save(waited_ms=waited_ms)
    while any(state.leads_to != (plan.host,) for state in endpoints_that_answer(pair.endpoint_states())):
        if time.monotonic() - began > FOLLOW_TIMEOUT_SECONDS:
            raise OutsideSystemError(f"{plan.host} takes writes, but the endpoints lead elsewhere: clear this task")
        time.sleep(POLL_SECONDS)
    audit, name, kept = run.ledger.audit, run.environment.name, str(record_of(run).progress().get("kept") or "")
    if not any(
        entry.detail.get("run") == str(run.holder) for entry in audit.entries(environment=name, action=AUDIT_ACTION)
    ):
        detail = {
            "run": str(run.holder),
            "target": plan.target.words,
            "last_commit": restored.last_commit,
            "approved_by": approved_by,
            "kept": kept,
            "restore_point": restore_point_before(plan),
        }
        audit.append(AUDIT_ACTION, run.holder.actor, name, plan.host, detail)
    run.note(
        f"the database is that of {plan.target.words}; clients are let in, after {waited_ms} ms",
        "success",
        host=plan.host,
    )
    return f"{plan.host} has the database of {plan.target.words}, last commit {restored.last_commit}; before: {kept}"


def replica_plan(plan: PointPlan, restored: RestoredPoint) -> SwitchPlan:
    """How the other server is made the replica: as a former primary whose own history is discarded."""
    return SwitchPlan(
        environment=plan.environment,
        kind=Kind.REJOIN,
        old=plan.replica,
        new=plan.host,
        system_identifier=plan.system_identifier,
        timeline=plan.timeline,
        lsn=0,
        loss=Loss(basis="the former data directory of the primary is kept"),
        old_words="the replica of before",
        new_words=f"restored, on timeline {restored.timeline}",
    )


def prove(run: ChangeRun, plan: PointPlan, restored: RestoredPoint) -> str:
    """Prove that what was approved is what is there, and that it is archived. Returns what was found.

    Raises ExchangeFailedError.
    """
    with on_archive(run, plan.host) as ways:
        found = ways.archive.rows()
        ways.pgbackrest.check()
    lacking = fewer(restored, found)
    detail = (
        f"{plan.host} has every row that was shown; its WAL arrives in the same stanza, timeline {restored.timeline}"
    )
    if not record_of(run).gate("rows_as_approved", lacking, detail):
        raise ExchangeFailedError(
            f"rows that were shown are not there: {'; '.join(lacking)}. If the application has deleted them since, all "
            "is well; nothing else does"
        )
    run.note(detail, "success", host=plan.host)
    return detail


def fewer(restored: RestoredPoint, found: Rows) -> list[str]:
    """Tables that have fewer rows than were shown; more may have come since."""
    return [
        f"{database} {table}: {found.rows.get(database, {}).get(table, 0)}, shown {rows}"
        for database, tables in restored.rows.items()
        for table, rows in tables.items()
        if found.rows.get(database, {}).get(table, 0) < rows
    ]
