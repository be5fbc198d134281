"""
# Verify backups

Restores the newest backup set into a scratch instance of PostgreSQL beside the running one, checks every page and
index, compares the rows of every table with the manifest, and measures how long all of that took. A backup that was
never restored is a hope.

## When to run

After each `backup_database`, by itself. By hand for another set: `set` is its label, as `pgbackrest info` and the
catalog have it.

## What it changes

Nothing that anybody uses. A database host, the replica where the policy says so, gets a directory below `work_dir` for
the time of the restore: as large as the database. The scratch instance listens on no network, archives nothing, and is
removed afterwards, whatever happens.

1. Takes the lease of backups: a set that is being restored does not expire meanwhile. Refuses when the host has not
   the space.
2. Restores the files, then the WAL up to the moment of the manifest (`restore_seconds`, `replay_seconds`); runs
   `pg_amcheck` with all indexes, counts the rows of every table, and runs `pg_checksums` on the stopped copy.
3. Compares the rows with the manifest. The catalog keeps that the set was restored, or why it is bad: then the next
   backup is a full one.

## How it undoes itself

The copy is removed at the end. What a killed try has left is removed by the next one.

## What can't run beside it

A backup of the same environment: whoever comes second is refused, and this one tries again for a minute and a half.
"""

from datetime import timedelta

from airflow.sdk import Asset, Param, chain, dag

from sebenza_ops.backup.operators import ReleaseBackupLeaseOperator
from sebenza_ops.backup.restore_operators import PlanRestoreTestOperator, RestoreSetOperator
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id

GRACE = timedelta(minutes=30)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy = environment.policies.backup
    assert policy is not None
    part = timedelta(seconds=policy.timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("verify_backups", environment),
        dag_display_name=f"Verify backups: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            schedule=[Asset(name=f"database_backup.{environment.name}")],
            execution_timeout=part,
            dagrun_timeout=2 * part,
            params={
                "set": Param(
                    "",
                    type="string",
                    pattern="^([0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?)?$",
                    description="Label of the set to restore; empty: the newest one.",
                ),
            },
        ),
    )
    def verify_backups() -> None:
        name = environment.name
        plan = PlanRestoreTestOperator(
            task_id="plan_restore_test", environment=name, execution_timeout=timedelta(minutes=10)
        )
        restored = RestoreSetOperator(task_id="restore_set", environment=name, plan=plan.output)
        released = ReleaseBackupLeaseOperator(task_id="release_lease", environment=name).as_teardown(
            setups=plan, on_failure_fail_dagrun=True
        )
        chain(plan, restored, released)

    verify_backups()


for environment in environments_with("backup"):
    make_dag(environment)
