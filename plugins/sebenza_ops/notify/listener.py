"""Airflow's listener: sees the end of every run, those marked by hand in the UI included.

It runs inside the scheduler, and inside the API server for a run that is marked by hand. There it only writes
to the outbox: waiting for other people's servers would stop all scheduling. Delivery at once is up to the
run's callback; no callback follows a mark by hand, so for that one a thread of the API server delivers.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

if TYPE_CHECKING:
    from sebenza_ops.notify.runs import Run

log = logging.getLogger(__name__)

# airflow/api_fastapi/core_api/services/public/dag_run.py, patch_dag_run_state (3.3.2).
_BY_HAND = "manually set"


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Queue the failure of a procedure's run."""
    if not _is_procedure(dag_run):
        return
    from sebenza_ops.ledger import Ledger, LedgerError
    from sebenza_ops.notify.outbox import deliver_in_background, queue_failure, tell_directly

    run, by_hand = _run(dag_run), _BY_HAND in msg
    failed = _failed_tasks(dag_run) or []
    reason = "marked as failed by hand" if by_hand else msg
    try:
        ledger = Ledger.from_connection()
        queue_failure(ledger, run, failed, reason)
    except LedgerError:
        log.exception("the ledger can't keep the failure of %s %s", run.dag_id, run.run_id)
        if by_hand:
            tell_directly(run, failed, reason)
        return
    if by_hand:
        deliver_in_background(ledger)


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Queue the resolution of earlier failures; a mark by hand proves nothing and resolves nothing."""
    if not _is_procedure(dag_run) or _BY_HAND in msg:
        return
    from sebenza_ops.ledger import Ledger, LedgerError
    from sebenza_ops.notify.outbox import queue_success

    failed = _failed_tasks(dag_run)
    if failed is None:
        return
    try:
        queue_success(Ledger.from_connection(), _run(dag_run), failed)
    except LedgerError:
        log.exception("the ledger can't keep the success of %s %s", dag_run.dag_id, dag_run.run_id)


def _is_procedure(dag_run: Any) -> bool:
    """Whether the run is one of a DAG that tells people about its failures; others are not our business."""
    return bool(getattr(dag_run.dag, "has_on_failure_callback", False))


def _run(dag_run: Any) -> Run:
    from sebenza_ops.notify.runs import Run

    return Run(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        clear_number=dag_run.clear_number or 0,
        requested_by=dag_run.triggering_user_name,
        conf=dag_run.conf or {},
    )


def _failed_tasks(dag_run: Any) -> list[str] | None:
    """Return the run's failed tasks from Airflow's own session, whose changes nobody else sees yet."""
    from sqlalchemy.orm import object_session

    session = object_session(dag_run)
    if session is None:
        log.warning("the task states of %s %s are unknown here", dag_run.dag_id, dag_run.run_id)
        return None
    instances = dag_run.get_task_instances(session=session)
    return sorted({instance.task_id for instance in instances if instance.state == "failed"})
