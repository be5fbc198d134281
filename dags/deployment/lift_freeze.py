"""
# Lift a freeze

Lets an environment be changed again before its freeze ends by itself.

## When to run

When the reason of the freeze is over, or a change can't wait. Give the `reason`.

## What it changes

The ledger only, in the audit as well. An environment that is not frozen is left as it is, and the run is skipped.

## How it undoes itself

It does not need to: `freeze` freezes again.

## What can't run beside it

Nothing is in its way.
"""

from airflow.sdk import dag

from sebenza_ops.deployment.lease_operators import LiftFreezeOperator
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id, reason_param


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("lift_freeze", environment),
        dag_display_name=f"Lift freeze: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            params={"reason": reason_param("Why the environment may be changed again.", required=True)},
        ),
    )
    def lift_freeze() -> None:
        LiftFreezeOperator(task_id="lift_freeze", environment=environment.name)

    lift_freeze()


for environment in environments_with("blue_green"):
    make_dag(environment)
