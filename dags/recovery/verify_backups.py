"""
# Verify backups

Restores the newest backup set into a scratch instance of PostgreSQL beside the running one, checks every page and
index, compares the rows of every table with the manifest, and measures how long all of that took. A backup that was
never restored is a hope.

## When to run

After each `backup_database`, by itself, and once a week by the policy (`policies.backup.restore_test`): that one also
reads every file of the repository back. By hand for another set: `set` is its label, as `pgbackrest info` and the
catalog have it; `repository: yes` reads everything back.

## What it changes

Nothing that anybody uses. A database host, the replica where the policy says so, gets a directory below `work_dir` for
the time of the restore: as large as the database. The scratch instance listens on no network, archives nothing, and is
removed afterwards, whatever happens.

1. Takes the lease of backups: a set that is being restored does not expire meanwhile. Refuses when the host has not
   the space. Archives all WAL up to now.
2. Weekly: every file of the repository is there, as large as its manifest says, its twin is right; pgBackRest reads
   every set and WAL segment; no segment is missing; every dump's SHA-256 is what was sent.
3. Restores the files, writes them to the disk and puts them out of the page cache; then the WAL up to the moment of the
   manifest, where the rows of every table are counted and compared; then all WAL up to now. Runs `pg_amcheck` with all
   indexes, and `pg_checksums` on the stopped copy.
4. Projects the recovery time at production's size with a day's WAL, with what that rests on and an error band; or says
   why nothing can be projected. Told when it is above the objective.

The catalog keeps what was measured, that the set was restored, or why it is bad: then the next backup is a full one.

## How it undoes itself

The copy is removed at the end. What a killed try has left is removed by the next one.

## What can't run beside it

A backup of the same environment, or a change that makes one before it (that one makes a dump instead): whoever comes
second is refused, and this one tries again for a minute and a half.
"""

from datetime import timedelta

from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param, chain, dag

from sebenza_ops.backup.plan import weekly_cron
from sebenza_ops.backup.restore_operators import (
    CheckRepositoryOperator,
    ConcludeRestoreTestOperator,
    FinishRestoreTestOperator,
    PlanRestoreTestOperator,
    RestoreSetOperator,
)
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, procedure_defaults, procedure_id

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
            schedule=AssetOrTimeSchedule(
                timetable=CronTriggerTimetable(weekly_cron(policy.restore_test), timezone="UTC"),
                assets=[Asset(name=f"database_backup.{environment.name}")],
            ),
            execution_timeout=part,
            # The repository is read back, then the set is restored.
            dagrun_timeout=3 * part,
            params={
                "set": optional_text_param(
                    "Label of the set to restore; empty: the newest one.",
                    pattern="^([0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?)?$",
                ),
                "repository": Param(
                    "auto",
                    type="string",
                    enum=["auto", "yes", "no"],
                    description="Read every file of the repository back: auto does in the weekly run only.",
                ),
            },
        ),
    )
    def verify_backups() -> None:
        name = environment.name
        plan = PlanRestoreTestOperator(
            task_id="plan_restore_test", environment=name, execution_timeout=timedelta(minutes=10)
        )
        checked = CheckRepositoryOperator(task_id="check_repository", environment=name, plan=plan.output)
        restored = RestoreSetOperator(task_id="restore_set", environment=name, plan=plan.output)
        concluded = ConcludeRestoreTestOperator(
            task_id="conclude", environment=name, plan=plan.output, problems=checked.output
        )
        # Bound to no setup: a plan that is refused has the lease already.
        released = FinishRestoreTestOperator(task_id="release_lease", environment=name).as_teardown(
            on_failure_fail_dagrun=True
        )
        chain(plan, checked, restored, concluded, released)

    verify_backups()


for environment in environments_with("backup"):
    make_dag(environment)
