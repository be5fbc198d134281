"""
# Check an environment

Logs in to every host, asks every system beside them, and reports what the procedures need, what they find, what is
missing, and the exact change that would mend it. The first thing to run on hosts of your own.

## When to run

After describing an environment in the inventory, until nothing is missing. Later, before a change that matters, and
when a procedure stops with an error that does not say enough: the report names the host, what was found and what is
needed.

The task's log has the report as a table; object storage has it as a page, with every command ready to be copied. The
run fails when something that is required is missing or could not be asked; warnings do not fail it.

## What it changes

Nothing. Every command on a host only reads; commands that would mend something are shown, never run. One small object
is written to the object storage, below `checks/`, read back and deleted, because nothing else shows that it can be
written. No message is sent: of channels only the connections are looked for.

## How it undoes itself

There is nothing to undo. It may be stopped at any time.

## What can't run beside it

Nothing: it takes no lease. While another run changes the environment, ports and processes are in motion: the report
then says whose run it is, and is worth repeating afterwards.
"""

from airflow.sdk import dag

from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.estate.operators import CheckEnvironmentOperator
from sebenza_ops.procedures import procedure_defaults, procedure_id


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("check_environment", environment),
        dag_display_name=f"Check environment: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(environment, "environments"),
    )
    def check_environment() -> None:
        CheckEnvironmentOperator(task_id="check_environment", environment=environment.name)

    check_environment()


# Every environment has it: whatever its policies are, its hosts must be reachable and right.
for environment in load_inventory().environments.values():
    make_dag(environment)
