"""The process that runs a procedure: checks it, runs its DAG with Airflow's own `dag.test()`, records who and why.

`python -m sebenza_ops.break_glass.in_process DESCRIPTOR` with the request on standard input; `command` starts it,
with the environment of a private Airflow home.
"""

from __future__ import annotations

import copy
import json
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.listeners import hookimpl

from sebenza_ops.break_glass.errors import RefusedError
from sebenza_ops.break_glass.messages import Channel, Event, Request

if TYPE_CHECKING:
    from sebenza_ops.ledger import Holder, Ledger

log = logging.getLogger(__name__)

# What dag.test() calls everybody.
_NOBODY = "dag_test"
FAILED = frozenset({"failed", "upstream_failed"})


def load_procedure(request: Request) -> Any:
    """The DAG, checked against what is asked for. Raises RefusedError."""
    from airflow.dag_processing.dagbag import DagBag

    from sebenza_ops.procedures import EMERGENCY

    bag = DagBag(dag_folder=request.file)
    found = bag.dags.get(request.dag_id)
    if found is None:
        errors = [str(text).strip().splitlines()[-1] for text in bag.import_errors.values()]
        known = ", ".join(sorted(bag.dags)) or "none"
        raise RefusedError(f"there is no procedure {request.dag_id!r} ({'; '.join([f'there: {known}', *errors])})")
    if EMERGENCY not in found.tags:
        raise RefusedError(
            f"{request.dag_id} is no emergency procedure: it needs Airflow (known here: {_emergencies() or 'none'})"
        )
    check_conf(found, request.conf)
    return found


def check_conf(dag: Any, conf: Any) -> None:
    """Check a conf as Airflow's API does, and its unknown keys, which the API lets pass. Raises RefusedError."""
    from airflow.sdk.exceptions import ParamValidationError

    from sebenza_ops.conf_keys import unknown_conf_message

    message = unknown_conf_message(list(conf), list(dag.params))
    if message is not None:
        raise RefusedError(message)
    try:
        params = copy.deepcopy(dag.params)
        params.update(conf)
        params.validate()
    except ParamValidationError as error:
        raise RefusedError(" ".join(str(error).split())) from error


def _emergencies() -> str:
    from airflow.dag_processing.dagbag import DagBag

    from sebenza_ops.break_glass.home import dags_directory
    from sebenza_ops.procedures import EMERGENCY

    bag = DagBag(dag_folder=str(dags_directory()))
    return ", ".join(sorted(dag_id for dag_id, dag in bag.dags.items() if EMERGENCY in dag.tags))


class Progress:
    """Airflow's listener: tells of each task's state."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._began: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    @hookimpl
    def on_task_instance_running(self, previous_state: Any, task_instance: Any) -> None:
        """A task begins."""
        self._began[task_instance.task_id] = time.monotonic()
        self._channel.tell(Event("task", task=task_instance.task_id, state="running"))

    @hookimpl
    def on_task_instance_success(self, previous_state: Any, task_instance: Any) -> None:
        """A task has succeeded."""
        self.errors.pop(task_instance.task_id, None)
        self._tell(task_instance.task_id, "success")

    @hookimpl
    def on_task_instance_skipped(self, previous_state: Any, task_instance: Any) -> None:
        """A task has skipped itself."""
        self._tell(task_instance.task_id, "skipped")

    @hookimpl
    def on_task_instance_failed(self, previous_state: Any, task_instance: Any, error: Any) -> None:
        """A task has failed, and may be tried again."""
        self.errors[task_instance.task_id] = str(error)
        self._tell(task_instance.task_id, "failed", str(error))

    def _tell(self, task_id: str, state: str, text: str = "") -> None:
        seconds = time.monotonic() - self._began.get(task_id, time.monotonic())
        self._channel.tell(Event("task", task=task_id, state=state, seconds=seconds, text=text))


def run(request: Request, channel: Channel) -> bool:
    """Run the procedure to its end; whether it succeeded. Raises RefusedError before anything is touched."""
    from airflow.models.dagrun import DagRun
    from airflow.sdk.listener import get_listener_manager
    from airflow.utils.types import DagRunType
    from sqlalchemy import event

    from sebenza_ops.conclusion import PLAN
    from sebenza_ops.decisions import at_terminal
    from sebenza_ops.ledger import Holder, ledger_or_journal
    from sebenza_ops.terminal import Terminal

    dag = load_procedure(request)
    now = datetime.now(UTC)
    run_id = DagRun.generate_run_id(run_type=DagRunType.MANUAL, logical_date=now, run_after=now)
    holder, environment = Holder(request.dag_id, run_id, request.person), request.dag_id.partition(".")[2]
    ledger = ledger_or_journal(environment, holder)
    detail = {"reason": request.reason, "conf": dict(request.conf)}
    ledger.audit.append("break_glass.started", request.person, environment, str(holder), detail)
    where = f"journal {ledger.engine.url.database}, as the ledger is down" if ledger.is_journal else "ledger"
    channel.tell(Event("began", text=f"run {run_id}, started by {request.person}; kept in the {where}"))

    def name_person(_mapper: Any, _connection: Any, target: Any) -> None:
        if target.triggering_user_name == _NOBODY:
            target.triggering_user_name = request.person

    event.listen(DagRun, "before_insert", name_person)
    progress = Progress(channel)
    get_listener_manager().add_listener(progress)
    # Airflow's way to call them needs its services; people are told below.
    dag.on_success_callback = dag.on_failure_callback = None
    dag.has_on_success_callback = dag.has_on_failure_callback = False
    began = time.monotonic()
    with at_terminal(Terminal(request.person)):
        dag_run = dag.test(run_after=now, logical_date=now, run_conf=dict(request.conf))
    instances = dag_run.get_task_instances()
    states = {instance.task_id: str(instance.state) for instance in instances}
    failed = sorted(name for name, state in states.items() if state in FAILED)
    state = "success" if str(dag_run.state) == "success" and not failed else "failed"
    _end(request, holder, failed, state, channel)
    lines = [f"{name}: {text}" for name, text in progress.errors.items() if name in failed]
    lines += [f"{name}: skipped" for name, was in states.items() if was == "skipped"]
    lines += [line for each in instances for line in each.xcom_pull(task_ids=each.task_id, key=PLAN) or []]
    summary = _summary(environment, holder)
    channel.tell(Event("ended", state=state, seconds=time.monotonic() - began, text=summary, lines=lines))
    return state == "success"


def _end(request: Request, holder: Holder, failed: list[str], state: str, channel: Channel) -> None:
    """Record the end and tell people. What can't be recorded or told is said, and changes nothing."""
    from sebenza_ops.ledger import LedgerError, ledger_or_journal
    from sebenza_ops.notify.outbox import deliver_pending, queue_failure, queue_success
    from sebenza_ops.notify.runs import Run

    environment = holder.dag_id.partition(".")[2]
    told = Run(holder.dag_id, holder.run_id, 0, holder.actor, dict(request.conf))
    try:
        ledger = ledger_or_journal(environment, holder)
        ledger.audit.append("break_glass.ended", holder.actor, environment, str(holder), {"state": state})
        if state == "success":
            queue_success(ledger, told)
        else:
            queue_failure(ledger, told, failed)
        report = deliver_pending(ledger)
        if report.failed:
            channel.tell(Event("note", text=f"people could not be told: {'; '.join(report.failed)}"))
    except LedgerError as error:
        log.exception("the end of %s is recorded nowhere", holder)
        channel.tell(Event("note", text=f"the end is recorded nowhere, and nobody was told: {error}"))


def _summary(environment: str, holder: Holder) -> str:
    from sebenza_ops.ledger import LedgerError, ledger_or_journal

    try:
        ledger: Ledger = ledger_or_journal(environment, holder)
        record = ledger.deployments.find(holder.dag_id, holder.run_id)
    except LedgerError as error:
        return f"its outcome can't be read: {error}"
    return (record.detail or "") if record is not None else ""


def main() -> int:
    """Run what standard input asks for; 0 success, 1 failure, 2 refused."""
    # An SSH session that is cut off must not stop a rollback half way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    channel = Channel(int(sys.argv[1]))
    request = Request(**json.load(sys.stdin))
    try:
        return 0 if run(request, channel) else 1
    except RefusedError as error:
        channel.tell(Event("refused", text=str(error)))
        return 2
    # Whatever it is, the person at the terminal must hear of it; the log has all of it.
    except Exception as error:
        log.exception("%s did not come to its end", request.dag_id)
        channel.tell(Event("ended", state="failed", text=f"it broke off: {type(error).__name__}: {error}"))
        return 1


if __name__ == "__main__":
    sys.exit(main())
