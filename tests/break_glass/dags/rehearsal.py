"""
# Rehearsal

An emergency procedure that changes nothing: it asks, and says what it was told.

## When to run

In tests of break-glass.

## What it changes

Nothing.

## How it undoes itself

There is nothing to undo.

## What can't run beside it

Everything can.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import Param, dag, task

from sebenza_ops.conclusion import PLAN
from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import EMERGENCY, START_DATE, check_first_task


@dag(
    dag_id="rehearsal.staging",
    schedule=None,
    start_date=START_DATE,
    doc_md=__doc__,
    tags=[EMERGENCY],
    params={
        "reason": Param(type="string", minLength=10, description="Why."),
        "count": Param(1, type="integer", minimum=1, maximum=3, description="A number."),
    },
    default_args={"pre_execute": check_first_task, "execution_timeout": timedelta(minutes=2)},
)
def rehearsal() -> None:
    asked = HumanDecisionOperator(
        task_id="decide",
        environment="staging",
        subject="Go on with {{ params.count }}?",
        body="What would be lost: **{{ params.count }} rows**.",
        approve="Go on",
        response_timeout=timedelta(seconds=90),
        ask_reason=True,
        emergency=True,
    )

    @task
    def say(answer: Any, dag_run: Any = None, ti: Any = None) -> str:
        ti.xcom_push(key=PLAN, value=["Plan for staging:", "  app1: nothing"])
        return f"{answer['approved_by']} for {dag_run.triggering_user_name}"

    say(asked.output)


rehearsal()
