"""
# Watch the recovery point

Says how much of the database would be lost if the primary were gone now: the age of the last WAL that is in the
repository. The answer is on the operations page.

## When to run

Every ten minutes, by itself: between two backups nobody else looks whether WAL still arrives. By hand at any time.

## What it changes

Nothing but the ledger. It logs in to the database hosts, reads how far the primary's archive is, and what is in the
repository. People are told when the answer is worse than the environment's objective (`policies.objectives`), once
more each time the objective passes again, and when it is met again. While nobody answers, what was archived by the last
answer is all that is counted on, so that the answer grows until somebody does.

## How it undoes itself

There is nothing to undo.

## What can't run beside it

Nothing: it takes no lease.
"""

from datetime import timedelta

from airflow.sdk import dag

from sebenza_ops.backup.operators import WatchRecoveryPointOperator
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id

# Ours: a sixth of the manual's objective of an hour.
EVERY_TEN_MINUTES = "*/10 * * * *"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("watch_recovery_point", environment),
        dag_display_name=f"Watch recovery point: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "backup",
            schedule=EVERY_TEN_MINUTES,
            execution_timeout=timedelta(minutes=3),
            dagrun_timeout=timedelta(minutes=8),
        ),
    )
    def watch_recovery_point() -> None:
        WatchRecoveryPointOperator(
            task_id="watch_recovery_point",
            environment=environment.name,
            retries=1,
        )

    watch_recovery_point()


for environment in environments_with("backup"):
    make_dag(environment)
