"""
# Contract migrations

Takes away from the database what no release needs any more: the *contract* migrations of the live release.

## When to run

Some days after the deployment of a release that has contract migrations, when nobody wants to go back behind it.
Deployments only ever *expand* the schema, so that old and new releases run side by side; without this procedure, old
columns and triggers stay for ever. With `plan_only` it shows what is due, and who still needs the old schema.

It is refused, and nothing is changed, while any of these lacks the contract migration in its manifest: a release that
runs in either color of any application host (the warm one and spares included), and the release that a rollback would
go back to. Deploy one more release, and let the old color stop: then the way is free.

## What it changes

1. Takes the lease, and finds out what is due and who needs what it takes away.
2. Where the environment asks for approval, asks. The environment is reserved meanwhile; afterwards the lease is taken
   again.
3. Makes a verified dump of the database in object storage, and reads it back.
4. Looks again, then runs the contract migrations on one application host, with the environment's limits for waiting
   for locks and for single statements.
5. Records in the audit which contract migrations the database has now: a rollback to a release that needs the old
   schema is refused from then on. Stores the evidence report, and gives the lease back.

Traffic and processes are not touched.

## How it undoes itself

A migration that fails is rolled back by the database, and the run fails. One that has succeeded can't be undone but by
restoring the dump, which loses what was written since: that is why it asks, and why it is a run of its own.

## What can't run beside it

Any change of the same environment. A run that finds the lease held is refused at once.
"""

from datetime import timedelta

from airflow.sdk import chain, dag

from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.deployment.contract_operators import (
    ApplyContractOperator,
    BackupBeforeContractOperator,
    FinishContractOperator,
    PlanContractOperator,
)
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import plan_only_param, procedure_defaults, procedure_id, reason_param

# What a task does beside the waits that the environment's policy bounds.
GRACE = timedelta(minutes=5)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    approvals = environment.policies.approvals
    dump_time = timedelta(seconds=environment.policies.backup_before_change.timeout_seconds)
    # Every attempt to get a lock may take all the time of an attempt.
    migrations = environment.policies.migrations
    attempt = timedelta(seconds=migrations.timeout_seconds + migrations.attempt_pause_seconds)
    apply_time = migrations.lock_attempts * attempt + GRACE
    decide_time = timedelta(seconds=approvals.timeout_seconds if approvals else 0)

    @dag(
        dag_id=procedure_id("migrate_contract", environment),
        dag_display_name=f"Contract migrations: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            dagrun_timeout=decide_time + dump_time + apply_time + timedelta(hours=1),
            params={
                "reason": reason_param("Why the old schema may go now.", required=True),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def migrate_contract() -> None:
        name = environment.name
        plan = PlanContractOperator(task_id="plan_contract", environment=name)
        backup = BackupBeforeContractOperator(
            task_id="backup_before_change", environment=name, execution_timeout=dump_time + GRACE
        )
        applied = ApplyContractOperator(
            task_id="apply_contract", environment=name, plan=plan.output, execution_timeout=apply_time
        )
        finished = FinishContractOperator(
            task_id="finish", environment=name, applying_task_id="apply_contract"
        ).as_teardown(on_failure_fail_dagrun=True)
        if approvals is None:
            chain(plan, backup, applied, finished)
            return
        decided = HumanDecisionOperator(
            task_id="decide",
            environment=name,
            subject=f"Run the contract migrations of {name}?",
            body="{{ ti.xcom_pull('plan_contract')['text'] }}\n\nReason given: {{ params.reason.split() | join(' ') }}",
            approve="Take the old schema away",
            response_timeout=decide_time,
        )
        chain(plan, decided, backup, applied, finished)

    migrate_contract()


for environment in environments_with("blue_green"):
    make_dag(environment)
