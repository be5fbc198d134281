"""
# Back up the database

Makes a backup with pgBackRest into the encrypted repository in object storage, dumps the database beside it, reads
all of it back, removes what is too old, and says how much would be lost if the primary were gone now.

## When to run

By the environment's policy, by itself. By hand before anything dangerous, and after a failover. `type` is `auto`
for what is due by the policy, or `full`, `diff`, `incr`.

## What it changes

1. Takes the lease of backups: a second backup of the environment is refused at once. Deployments and rollbacks
   neither wait for it nor does it wait for them. Decides the type, and the host by `run_on`; switches a WAL segment
   and finds it in the repository.
2. Backs up: detached on the database host, so that a worker that dies costs nothing.
3. Counts the rows of every table and dumps the database, in one snapshot; proves that the dump can be read to its
   end and holds every table; sends it in pieces, and reads each back. Lets the verification begin beside it.
4. Waits until every file of the repository is read back (`pgbackrest verify`, by its text), and looks for gaps in the
   WAL (check_pgbackrest).
5. Removes sets, WAL and dumps older than the policy keeps, never the last good ones. Records the recovery point,
   and tells people when it is above the objective or anything else is amiss.

Written to: the repository, `backups/database/` in object storage, the policy's `work_dir` on the database host, and
the catalog in the ledger, which follows what is really in the repository.

## How it undoes itself

It adds, and removes only after all was verified: a run that fails leaves every earlier backup as it was. Clear a
failed task: what works on the host is found again, an interrupted backup is resumed by pgBackRest. A run that is
cleared from its beginning makes another backup.

## What can't run beside it

Another backup of the same environment. On a database without a replica, a migration that needs a lock on a table
waits while the dump reads it, and gives up by its own time-out.
"""

from datetime import timedelta

from airflow.sdk import Asset, Param, chain, dag

from sebenza_ops.backup.operators import (
    BackUpOperator,
    DumpDatabaseOperator,
    EndBackupOperator,
    FinishBackupOperator,
    PlanBackupOperator,
    VerifyBackupOperator,
)
from sebenza_ops.backup.plan import cron
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id

GRACE = timedelta(minutes=30)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy = environment.policies.backup
    assert policy is not None
    part = timedelta(seconds=policy.timeout_seconds) + GRACE
    backed_up = Asset(name=f"database_backup.{environment.name}")

    @dag(
        dag_id=procedure_id("backup_database", environment),
        dag_display_name=f"Back up database: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "backup",
            schedule=cron(policy),
            execution_timeout=part,
            # Backup, dump, verification and removal, one after the other.
            dagrun_timeout=4 * part,
            params={
                "type": Param(
                    "auto",
                    type="string",
                    enum=["auto", "full", "diff", "incr"],
                    description="auto: what the policy says is due; full, diff (since the full one) or incr (since the "
                    "last one). Without a sound full backup it becomes a full one.",
                ),
            },
        ),
    )
    def backup_database() -> None:
        name = environment.name
        plan = PlanBackupOperator(task_id="plan_backup", environment=name, execution_timeout=timedelta(minutes=10))
        made = BackUpOperator(task_id="back_up", environment=name, plan=plan.output)
        dumped = DumpDatabaseOperator(
            task_id="dump_database", environment=name, plan=plan.output, set_label=made.output
        )
        verified = VerifyBackupOperator(
            task_id="verify_backup", environment=name, plan=plan.output, set_label=made.output
        )
        finished = FinishBackupOperator(
            task_id="finish_backup",
            environment=name,
            plan=plan.output,
            set_label=made.output,
            problems=verified.output,
            outlets=[backed_up],
        )
        # Bound to no setup: a plan that is refused has the lease already.
        released = EndBackupOperator(task_id="release_lease", environment=name, made=finished.output).as_teardown(
            on_failure_fail_dagrun=True
        )
        chain(plan, made, dumped, verified, finished, released)

    backup_database()


for environment in environments_with("backup"):
    make_dag(environment)
