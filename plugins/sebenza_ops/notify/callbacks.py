"""What DAGs call when a task or a run ends: fill the outbox, then deliver at once.

Airflow runs the callbacks of a run in a child of the DAG processor, at most once, and not at all for a run
that is marked by hand; `listener` sees those. Both fill the same outbox, whose key lets the second do nothing.
Imported by every DAG file, so it imports almost nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sebenza_ops.ledger import Ledger
    from sebenza_ops.notify.runs import Run

log = logging.getLogger(__name__)

FAILED_STATES = frozenset({"failed", "upstream_failed"})


def on_task_failure(context: Mapping[str, Any]) -> None:
    """Keep a failed task's error, for the message that another process writes about the run.

    For `default_args["on_failure_callback"]`.
    """
    from sebenza_ops.ledger import LedgerError
    from sebenza_ops.notify.runs import TASK_FAILED, error_chain

    run = run_of(context)
    if run is None:
        return
    instance = context["task_instance"]
    raised = context.get("exception")
    error = raised if isinstance(raised, BaseException) else None
    chain = error_chain(error)
    mapped = f"[{instance.map_index}]" if instance.map_index is not None and instance.map_index >= 0 else ""
    payload = {
        "task": f"{instance.task_id}{mapped}",
        "clear_number": run.clear_number,
        "try_number": instance.try_number,
        # Airflow's own "do not retry" says nothing; what it was raised from does.
        "error_type": next((name for name in chain if name != "AirflowFailException"), "Refused" if chain else "Error"),
        "error_chain": chain,
        "error": str(raised) if raised is not None else "the task was ended from outside",
    }
    try:
        _ledger_of(run).evidence.add(run.dag_id, run.run_id, TASK_FAILED, payload)
    except LedgerError:
        log.exception("the error of %s is not in the ledger: the message will lack it", payload["task"])


def on_procedure_failure(context: Mapping[str, Any]) -> None:
    """Tell people that a run failed. For a DAG's `on_failure_callback`."""
    from sebenza_ops.ledger import LedgerError
    from sebenza_ops.notify.outbox import deliver_pending, queue_failure, tell_directly

    run = run_of(context)
    if run is None:
        _deliver_only("failure", context)
        return
    failed = failed_tasks(context, run)
    if failed is None:
        instance = context.get("task_instance")
        failed = [instance.task_id] if instance is not None else []
    reason = str(context.get("reason") or "")
    try:
        ledger = _ledger_of(run)
        queue_failure(ledger, run, failed, reason)
    except LedgerError:
        log.exception("the ledger can't keep the failure of %s %s: telling people directly", run.dag_id, run.run_id)
        tell_directly(run, failed, reason)
        return
    log.info("%s", deliver_pending(ledger))


def on_procedure_success(context: Mapping[str, Any]) -> None:
    """Resolve what earlier runs reported, unless a task of this one failed. For a DAG's `on_success_callback`."""
    from sebenza_ops.ledger import LedgerError
    from sebenza_ops.notify.outbox import deliver_pending, queue_success

    run = run_of(context)
    failed = failed_tasks(context, run) if run is not None else None
    if run is None or failed is None:
        # Not knowing is no success; the listener in the scheduler knows, and has queued what is to be queued.
        _deliver_only("success", context)
        return
    try:
        ledger = _ledger_of(run)
        queue_success(ledger, run, failed)
        log.info("%s", deliver_pending(ledger))
    except LedgerError:
        # Nothing but people's hearing of it is lost; what they were told of before stays open until the next success.
        log.exception("the ledger can't keep the success of %s %s: nobody is told", run.dag_id, run.run_id)


def run_of(context: Mapping[str, Any]) -> Run | None:
    """Return the run of a context, or None when Airflow gave none (a callback without a task instance)."""
    from sebenza_ops.notify.runs import Run

    dag_run = context.get("dag_run")
    if dag_run is None:
        return None
    return Run(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        clear_number=dag_run.clear_number or 0,
        requested_by=getattr(dag_run, "triggering_user_name", None),
        conf=dag_run.conf or {},
    )


def failed_tasks(context: Mapping[str, Any], run: Run) -> list[str] | None:
    """Return the ids of the run's failed tasks, or None when they can't be learned here."""
    instance = context.get("task_instance")
    if instance is None:
        return None
    try:
        states = instance.get_task_states(dag_id=run.dag_id, run_ids=[run.run_id]).get(run.run_id, {})
    # Outside of Airflow's own processes there is no supervisor to ask, and each says so with another error.
    except Exception:
        log.warning("the task states of %s %s are unknown here", run.dag_id, run.run_id, exc_info=True)
        return None
    return sorted(task_id for task_id, state in states.items() if str(state) == "failed") or sorted(
        task_id for task_id, state in states.items() if str(state) in FAILED_STATES
    )


def _ledger_of(run: Run) -> Ledger:
    """The ledger, or the journal that an emergency has kept while the ledger is down. Raises LedgerError."""
    from sebenza_ops.ledger import Ledger, LedgerError, find_journal

    journal = find_journal(run.dag_id, run.run_id)
    if journal is None:
        return Ledger.from_connection()
    try:
        ledger = Ledger.from_connection()
        ledger.check(run.environment)
    except LedgerError:
        return journal
    return ledger


def _deliver_only(what: str, context: Mapping[str, Any]) -> None:
    from sebenza_ops.ledger import Ledger
    from sebenza_ops.notify.outbox import deliver_pending

    log.warning("Airflow's %s callback came without its run (%s); the listener has it", what, context.get("run_id"))
    log.info("%s", deliver_pending(Ledger.from_connection()))
