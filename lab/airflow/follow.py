"""Starts a procedure over the API and follows it on the terminal until it has ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from lab.airflow.client import (
    POLL_SECONDS,
    AirflowApiError,
    AirflowClient,
    AirflowRefusedError,
    AwaitTimeoutError,
    TaskInstance,
)
from lab.waiting import Patience
from sebenza_ops.conf_keys import unknown_conf_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ERROR_LINES = 12
# A failed task's error is in the ledger a moment after Airflow has the run's end.
TOLD_SECONDS = 10.0
# Longer than any procedure takes, approvals included; the run itself goes on when following stops.
FOLLOW_SECONDS = 8 * 3600
# States that only say that Airflow is on its way tell the person who follows nothing.
QUIET_STATES = frozenset({None, "scheduled", "queued", "removed"})


class Outcome(IntEnum):
    """Exit codes of ``make run``."""

    SUCCESS = 0
    FAILURE = 1
    REFUSED = 2


def run_and_follow(
    client: AirflowClient,
    dag_id: str,
    conf: Mapping[str, Any],
    say: Callable[[str], None],
    *,
    follow: bool = True,
) -> Outcome:
    """Trigger a run and, unless told otherwise, follow it to its end.

    Args:
        client: who runs it, and where.
        dag_id: the procedure, for example ``deploy_blue_green.production``.
        conf: its parameters.
        say: gets one line at a time.
        follow: False returns as soon as the run exists.
    """
    try:
        if (reason := _reason_to_refuse(client, dag_id, conf)) is not None:
            say(f"refused: {reason}")
            return Outcome.REFUSED
        run_id = client.trigger(dag_id, conf)
    except AirflowRefusedError as error:
        say(refusal(client, dag_id, error))
        return Outcome.REFUSED
    url = client.run_url(dag_id, run_id)
    say(f"{dag_id}: started as {client.username}, run {run_id}")
    say(f"  {url}")
    if not follow:
        return Outcome.SUCCESS
    began = datetime.now(UTC)

    def show(changed: list[TaskInstance]) -> None:
        for task in sorted(changed, key=lambda task: (task.start_date or began, task.label)):
            if task.state not in QUIET_STATES:
                say(_progress_line(task, began))

    try:
        state = client.await_state(dag_id, run_id, on_change=show, timeout_seconds=FOLLOW_SECONDS)
    except AwaitTimeoutError as error:
        say(f"{error}; it goes on: {url}")
        return Outcome.FAILURE
    seconds = (datetime.now(UTC) - began).total_seconds()
    say(f"{dag_id}: ended after {seconds:.1f} s")
    for line in conclusion(client, dag_id, run_id):
        say(line)
    return Outcome.SUCCESS if state == "success" else Outcome.FAILURE


def conclusion(client: AirflowClient, dag_id: str, run_id: str, *, patience_seconds: float = TOLD_SECONDS) -> list[str]:
    """What a run that has ended says: its outcome in a sentence, how things are now, why, the plan, what is to be done.

    Args:
        client: who asks.
        dag_id: the procedure.
        run_id: the run.
        patience_seconds: how long to wait for the words of a task that has failed a moment ago.
    """
    try:
        told = _outcome(client, dag_id, run_id, Patience("the words of a task that has failed", patience_seconds))
    except AirflowApiError as error:
        # How it ended does not depend on whether that can be read.
        return [f"what the run says can't be read: {error}", f"  all of it: {client.run_url(dag_id, run_id)}"]
    lines = ["", f"{told['title']}: {told['sentence']}"]
    if told["state_now"]:
        lines.append(f"Now: {told['state_now']}")
    if told["plan"]:
        lines += ["Plan:", *(f"  {line}" for line in told["plan"])]
    if told["why"]:
        lines += ["Why:", *(f"  {line}" for error in told["why"] for line in error.splitlines())]
    elif not told["is_told"] and told["state"] == "failed":
        lines += failure_report(client, dag_id, run_id)
    if told["to_do"]:
        lines += ["To do:", *(f"  {line}" for line in told["to_do"])]
    return [*lines, f"Evidence: {client.url}{told['evidence']}"]


def _outcome(client: AirflowClient, dag_id: str, run_id: str, patience: Patience) -> dict[str, Any]:
    while True:
        told = client.run_outcome(dag_id, run_id)
        if told["is_told"] or told["state"] == "success" or patience.is_over():
            return told
        time.sleep(POLL_SECONDS)


def _reason_to_refuse(client: AirflowClient, dag_id: str, conf: Mapping[str, Any]) -> str | None:
    """What Airflow would accept in silence: unknown keys, and a paused procedure, whose run would never start."""
    details = client.dag_details(dag_id)
    if details["is_paused"]:
        return f"{dag_id} is paused; switch it on in the UI first: {client.url}/dags/{dag_id}"
    return unknown_conf_message(list(conf), list(details["params"] or {}))


def refusal(client: AirflowClient, dag_id: str, error: AirflowRefusedError) -> str:
    """Why a run could not be started, in words for the person at the terminal."""
    if error.status == 404:
        known = ", ".join(sorted(dag["dag_id"] for dag in client.dags())) or "none (see `python -m lab.airflow status`)"
        return f"refused: there is no procedure {dag_id!r}; there are: {known}"
    if error.status == 403:
        return f"refused: {client.username} may not start {dag_id}"
    return f"refused: {error}"


def failure_report(client: AirflowClient, dag_id: str, run_id: str) -> list[str]:
    """The failed tasks of a run, each with the end of its log."""
    lines = []
    for task in client.task_instances(dag_id, run_id):
        if task.state != "failed":
            continue
        lines.append(f"  {task.label} failed (try {task.try_number}):")
        try:
            log = client.logs(dag_id, run_id, task.task_id, map_index=task.map_index)
        except AirflowApiError as error:
            lines.append(f"    its log can't be read: {error}")
            continue
        lines += [f"    {text}" for text in error_lines(log)]
    return lines


def error_lines(log: list[dict[str, Any]]) -> list[str]:
    """The reason in a task's log: its last errors, else its last lines."""
    errors = [line for line in log if str(line.get("level", "")).lower() in {"error", "critical"}]
    chosen = errors or [line for line in log if line.get("event")]
    texts: list[str] = []
    for line in chosen[-ERROR_LINES:]:
        texts += str(line.get("event", "")).splitlines()
        for detail in line.get("error_detail") or []:
            texts.append(f"{detail.get('exc_type')}: {detail.get('exc_value')}")
    return texts[-2 * ERROR_LINES :]


def _progress_line(task: TaskInstance, began: datetime) -> str:
    at = (datetime.now(UTC) - began).total_seconds()
    took = ""
    if task.start_date and task.end_date and task.state in {"success", "failed"}:
        took = f" in {(task.end_date - task.start_date).total_seconds():.1f} s"
    tries = f" (try {task.try_number})" if task.try_number > 1 else ""
    return f"  {at:6.1f} s  {task.label:<44} {task.state}{took}{tries}"
