"""
# Rollback

Brings all traffic back to a release that was good: the last known good one, or one that you name.

## When to run

When the release that is live must go, now. Give the `reason`. Without `to` it goes back to the newest release that the
environment has run and verified, other than the one that is live; with `to` (a version or a release id) to that one.

It does not ask who holds the environment: a run that is under way is **fenced off**. Hosts and load balancers refuse
what it still sends, and its tasks fail. A freeze does not stop it. It needs no Prometheus, and no object storage while
the release is still on the hosts. While the ledger is down it keeps a journal, which is carried over later. Without
Airflow: `make break-glass`.

## What it changes

1. Refuses a `to` that nobody knows or that is marked bad, before anybody is fenced off for it. Takes the lease from
   whoever holds it, and looks where traffic is and what runs.
2. While the old color is still warm, all load balancers switch to it at once, in the same task: seconds after the
   start.
3. Otherwise the release is started on the color without traffic and awaited there first, then all load balancers
   switch, in the same task. Nothing is stopped before.
4. Proves by two sources where traffic is, writes map files, markers and the last known good release.
5. Compares both releases for the report: the one that was left by its last minute, the one that is back by watching it.
   Marks the release that was left bad in this environment, unless `mark_bad` is off: the next deployment of it is
   refused.
6. Stores the evidence report and gives the lease back.

The database is not touched: deployments only ever expand the schema, and old releases work with it. A release that
needs what a contract migration has taken away is refused.

With `database` it is brought back as well, once traffic is back: the newest verified backup from before the change is
restored beside, what would be lost is shown table by table, and somebody decides. Then another backup is made, the
database is moved aside, and the copy takes its place; requests fail for some seconds. Nothing is deleted: what was
written since is in the database that was moved aside. Refused when there is no such backup, or a contract migration
ran since. Refused or rejected, the database stays as it is, traffic is back all the same, and the run fails and says
so.

## How it undoes itself

It does not: a person has decided. A rollback that could not be carried out leaves traffic where it was, or says loudly
that it is split and what to do. To go forward again, deploy.

A database that can't be exchanged in 20 s is as before, and users are let in again. One that was exchanged stays; the
run's messages have the statements that exchange it again.

## What can't run beside it

Nothing stops it. Two rollbacks at once: the later one fences the earlier off.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule, XComArg, chain, dag

from sebenza_ops.deployment.database_rollback_operators import (
    ApproveDatabaseRollbackOperator,
    BackupBeforeDatabaseRollbackOperator,
    PlanDatabaseRollbackOperator,
    RestoreBesideOperator,
    SwapDatabaseOperator,
)
from sebenza_ops.deployment.operators import RecordDeploymentOperator
from sebenza_ops.deployment.params import TARGET_PATTERN
from sebenza_ops.deployment.rollback_operators import (
    FinishRollbackOperator,
    PlanRollbackOperator,
    StartTargetOperator,
    SwitchBackOperator,
)
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import (
    EMERGENCY,
    optional_text_param,
    plan_only_param,
    procedure_defaults,
    procedure_id,
    reason_param,
)

COLD = "start_release"
DATABASE = (
    "plan_database_rollback",
    "restore_beside",
    "approve_database_rollback",
    "backup_before_database_rollback",
    "swap_database",
)
# Without a policy for approvals, people have so long to decide about the database.
DECIDE_TIME = timedelta(hours=1)
GRACE = timedelta(minutes=5)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    approvals = environment.policies.approvals
    decide_time = timedelta(seconds=approvals.timeout_seconds) if approvals else DECIDE_TIME
    dump_time = timedelta(seconds=environment.policies.backup_before_change.timeout_seconds)
    # A restore, then the rows of two databases are counted.
    restore_time, swap_time = 3 * dump_time + GRACE, 2 * dump_time + GRACE

    @dag(
        dag_id=procedure_id("rollback", environment),
        dag_display_name=f"Roll back: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            dagrun_timeout=timedelta(hours=1) + decide_time + restore_time + dump_time + swap_time,
            tags=[EMERGENCY],
            params={
                "reason": reason_param("Why the release that is live must go.", required=True),
                "to": optional_text_param(
                    "A version or a release id; empty: the last known good release.",
                    pattern=TARGET_PATTERN,
                ),
                "mark_bad": Param(
                    True, type="boolean", description="Refuse the release that is left from now on, until it is forced."
                ),
                "database": Param(
                    False,
                    type="boolean",
                    description="Bring the database back as well, to the newest backup from before the change: once "
                    "traffic is back, only if the schema allows it, and only if somebody approves what would be lost.",
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def rollback() -> None:
        name = environment.name
        plan = PlanRollbackOperator(
            task_id="plan_rollback", environment=name, cold_task_id=COLD, database_task_ids=DATABASE
        )
        started = StartTargetOperator(task_id=COLD, environment=name, plan=plan.output)
        traffic = SwitchBackOperator(
            task_id="switch_back",
            environment=name,
            plan=plan.output,
            # The task before it is skipped when the color is warm.
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        )
        recorded = RecordDeploymentOperator(
            task_id="record_rollback", environment=name, plan=plan.output, emergency=True
        )
        database = PlanDatabaseRollbackOperator(task_id="plan_database_rollback", environment=name, plan=plan.output)
        copy = RestoreBesideOperator(
            task_id="restore_beside", environment=name, plan=database.output, execution_timeout=restore_time
        )
        approved = ApproveDatabaseRollbackOperator(
            task_id="approve_database_rollback",
            environment=name,
            subject=f"Bring the database of {name} back to the backup from before the change?",
            body="{{ ti.xcom_pull('restore_beside')['text'] }}",
            approve="Bring the database back",
            excluded=XComArg(copy, key="excluded"),
            response_timeout=decide_time,
        )
        backup = BackupBeforeDatabaseRollbackOperator(
            task_id="backup_before_database_rollback", environment=name, execution_timeout=dump_time + GRACE
        )
        swapped = SwapDatabaseOperator(
            task_id="swap_database",
            environment=name,
            plan=database.output,
            copy=copy.output,
            approved_by="{{ ti.xcom_pull('approve_database_rollback')['approved_by'] }}",
            execution_timeout=swap_time,
        )
        # Without a setup: Airflow allows nothing but "all succeeded" right after one, and a warm color skips a task.
        finished = FinishRollbackOperator(task_id="finish", environment=name).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, started, traffic, recorded, database, copy, approved, backup, swapped, finished)
        plan >> traffic
        # Skipped tasks are done at once: the end waits for traffic all the same.
        recorded >> finished

    rollback()


for environment in environments_with("blue_green"):
    make_dag(environment)
