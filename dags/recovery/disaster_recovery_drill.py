"""
# Disaster recovery drill

Restores the backups at the secondary site with escrowed keys, runs the application on the copy, measures it, and
compares that with the objectives. A miss fails the drill and is a finding with an owner.

## When to run

Monthly by policy (`drill_day`, `drill_start`; switch its DAG on once). By hand after a change of the backups, the keys
or the secondary site. `escrow_credentials` must have run before.

## What it changes

Nothing that users meet: no load balancer, no DNS record, no server of the primary site. At the secondary site:

1. Refuses when that site serves, or its database server is a primary.
2. Opens the escrow with the operators' identity; a connection that is another one by now is a finding.
3. Restores the newest backup with all WAL there is into an instance of its own, on the site's database host, port
   `drill_port`: with the escrowed keys, not with those that the host is configured with. It archives nothing.
4. Runs the last known good release on the site's application host, in the color that its load balancers do not send
   to, on that copy, with nobody to alert; waits until its pages answer with rows of the copy.
5. Measures: from the start to the answering application (RTO), and how much older the copy's last commit is than the
   last one that the site's standby had at the start (RPO); compares both, and the mean over drills, with the
   objectives.

The database host needs room for a copy of the database and a tenth more.

## How it undoes itself

Its last task ends the copy and the application, whatever happened, and removes the copy's own directory.

## What can't run beside it

A second drill is refused. A disaster recovery is not kept waiting: it uses the other color and the other server.
"""

from datetime import timedelta

from airflow.sdk import chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, procedure_defaults, procedure_id
from sebenza_ops.recovery.drill_operators import (
    PLAN_TASK_ID,
    RESTORE_TASK_ID,
    SERVE_TASK_ID,
    CleanUpDrillOperator,
    JudgeDrillOperator,
    PlanDrillOperator,
    RestoreCopyOperator,
    ServeCopyOperator,
)

GRACE = timedelta(minutes=30)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy, backup = environment.policies.disaster_recovery, environment.policies.backup
    assert policy is not None
    restore_time = (timedelta(seconds=backup.timeout_seconds) if backup else timedelta(hours=6)) + GRACE
    start = policy.drill_start

    @dag(
        dag_id=procedure_id("disaster_recovery_drill", environment),
        dag_display_name=f"Disaster recovery drill: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            schedule=f"{start.minute} {start.hour} {policy.drill_day} * *",
            dagrun_timeout=restore_time + timedelta(hours=2),
            execution_timeout=GRACE,
            params={
                "release_id": optional_text_param(
                    "What runs on the copy; empty: the last known good release.",
                    pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$",
                ),
            },
        ),
    )
    def disaster_recovery_drill() -> None:
        name = environment.name
        plan = PlanDrillOperator(task_id=PLAN_TASK_ID, environment=name)
        restored = RestoreCopyOperator(
            task_id=RESTORE_TASK_ID, environment=name, plan=plan.output, execution_timeout=restore_time
        )
        served = ServeCopyOperator(task_id=SERVE_TASK_ID, environment=name, plan=plan.output)
        judged = JudgeDrillOperator(task_id="judge_drill", environment=name, plan=plan.output, retries=0)
        cleaned = CleanUpDrillOperator(task_id="clean_up", environment=name).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, restored, served, judged, cleaned)
        plan >> [served, judged, cleaned]

    disaster_recovery_drill()


for environment in environments_with("disaster_recovery"):
    make_dag(environment)
