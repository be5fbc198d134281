"""
# Restore a database

Restores a backup set into a new database of the running server, beside the one that is used, for rows or tables of an
earlier time.

## When to run

When some data was lost and the rest must stay as it is: look it up, or copy it over, from the restored database. To
take everything back, use `restore_point_in_time`. Without `set`, the newest set that was verified is taken; with
"choose" the run shows the catalog's sets in a form. `plan_only` says which one it would be, from what, and whether
there is room.

## What it changes

1. Chooses the set, and refuses: a set that is damaged or was never verified, a `target_database` that exists, too
   little disk. Nothing that exists is ever touched.
2. `source` dump: fetches the set's dump, each piece by its SHA-256. `source` files: restores the whole cluster beside
   up to the moment of the manifest, and dumps the database from there. `auto` takes the dump where the set has one.
3. Restores in parallel into a database with a name of its own, and stops at the first error.
4. Counts every table and compares it with the set's manifest, and the schema's revision. Only a database that is right
   gets the name `target_database`; what differs is listed, and the set is marked bad.

Owners and grants come along; nobody else is let in. The application does not know of it. Drop it when it is not needed.

## How it undoes itself

A run that fails, or is ended, removes the database that it was making, by its own name, and its files. A run that was
killed goes on when its task is cleared.

## What can't run beside it

Any change of the environment: it holds the lease to its end. A freeze does not stop it. No backup set is removed
meanwhile: a backup that ends just then leaves that to the next one.
"""

from datetime import timedelta

from airflow.sdk import Param, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, plan_only_param, procedure_defaults, procedure_id
from sebenza_ops.recovery.database_restore_operators import (
    CHOOSE,
    ChooseSetOperator,
    FinishDatabaseRestoreOperator,
    PlanDatabaseRestoreOperator,
    RestoreIntoOperator,
)

GRACE = timedelta(minutes=30)
CHOOSE_TIME = timedelta(hours=1)
SET_PATTERN = rf"^({CHOOSE}|[0-9]{{8}}-[0-9]{{6}}F(_[0-9]{{8}}-[0-9]{{6}}[DI])?)?$"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy = environment.policies.backup
    assert policy is not None
    # Files, dump, rows: each with a time limit of its own.
    restore_time = 3 * timedelta(seconds=policy.timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("restore_database", environment),
        dag_display_name=f"Restore a database: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=CHOOSE_TIME + restore_time + GRACE,
            params={
                "target_database": Param(
                    f"{environment.database.name}_restored",
                    type="string",
                    pattern="^[a-z_][a-z0-9_]{0,62}$",
                    description="Name of the new database; one that exists is refused.",
                ),
                "set": optional_text_param(
                    "The set's label, as the catalog has it; empty: the newest one that was verified; "
                    "choose: the run shows the catalog's sets, and waits until an approver has chosen one.",
                    pattern=SET_PATTERN,
                ),
                "source": Param(
                    "auto",
                    type="string",
                    enum=["auto", "dump", "files"],
                    description="auto: the set's dump where it has one. files: the whole cluster beside, and a dump "
                    "from there.",
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def restore_database() -> None:
        name = environment.name
        chosen = ChooseSetOperator(
            task_id="choose_set",
            environment=name,
            subject=f"Which backup set of {name} is restored into a new database?",
            body="",
            approve="the newest one",
            response_timeout=CHOOSE_TIME,
        )
        plan = PlanDatabaseRestoreOperator(task_id="plan_restore", environment=name, chosen=chosen.output)
        restored = RestoreIntoOperator(
            task_id="restore_into", environment=name, plan=plan.output, execution_timeout=restore_time
        )
        finished = FinishDatabaseRestoreOperator(task_id="finish", environment=name).as_teardown(
            on_failure_fail_dagrun=True
        )
        chain(chosen, plan, restored, finished)

    restore_database()


for environment in environments_with("backup"):
    make_dag(environment)
