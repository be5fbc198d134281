"""
# Freeze an environment

Refuses every change of an environment until a given time, but a rollback.

## When to run

Before a time in which nothing may change: a sale, an audit, an incident that is being looked into. Give `until`, with
its time zone, and the `reason`: everybody whose change is refused reads it.

## What it changes

The ledger only, in the audit as well. A run that holds the lease goes on to its end; the task's log names it. What
begins later is refused by its first task, before anything is touched; `plan_only` stays possible. The end of a warm
color's time does not come during a freeze: the color stays, which keeps a rollback instant.

## How it undoes itself

It ends by itself, at its time. `lift_freeze` ends it earlier; another `freeze` replaces it.

## What can't run beside it

Nothing is in its way.
"""

from airflow.sdk import Param, dag

from sebenza_ops.deployment.lease_operators import FreezeOperator
from sebenza_ops.deployment.params import MOMENT_PATTERN
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id, reason_param


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("freeze", environment),
        dag_display_name=f"Freeze: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            params={
                "until": Param(
                    type="string",
                    format="date-time",
                    # Airflow does not check the format.
                    pattern=MOMENT_PATTERN,
                    description="The end, with its time zone, at most 90 days away: 2026-12-24T16:00:00+02:00.",
                ),
                "reason": reason_param("Why nothing may change; shown to everybody who is refused.", required=True),
            },
        ),
    )
    def freeze() -> None:
        FreezeOperator(task_id="freeze", environment=environment.name)

    freeze()


for environment in environments_with("blue_green"):
    make_dag(environment)
