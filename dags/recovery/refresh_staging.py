"""
# Refresh staging

Gives an environment the data of another one (production's, by the policy), anonymized: from the newest verified
backup, never from the live tables.

## When to run

By the environment's policy (`policies.refresh`), weekly. By hand when a rehearsal needs fresh data. It starts paused.

## What it changes

1. Takes the lease of the source's backups, and the newest set that was read back. While a backup works it comes back
   every ten minutes for an hour.
2. On a database host of the source, beside the running one: restores the set into a scratch instance; **stops when a
   column looks personal (by its name or by what it holds) and is not declared**, or a declared one is gone; changes
   every declared column; looks through every column for what was there before; dumps the rest. Nothing personal leaves
   that host. The dump goes to the environment's object storage.
3. Takes the environment's lease; steps back while a change holds or has reserved it. A freeze stops it.
4. Restores the dump into a new database beside; compares the rows of every table with the backup's manifest; looks
   through it again; runs the migrations of the release that runs here, which may be ahead of production.
5. Exchanges the names in one transaction: sessions are ended, the application connects anew (mostly 1 to 3 s). The
   former database is kept aside; the summary has its name. Cached rows are forgotten; health is awaited on every host,
   seen from every load balancer; database and rows are verified.

## How it undoes itself

Before the exchange nothing of the environment is touched. After it, whatever is not as it should be is taken back: the
former database gets its name again, and is proven healthy. Clear a failed task: what is done is found done.

## What can't run beside it

Whatever changes the environment; a backup of the source during the first two steps.
"""

from datetime import timedelta

from airflow.sdk import chain, dag

from sebenza_ops.environments.inventory import environments_with, load_inventory
from sebenza_ops.environments.models import Environment
from sebenza_ops.environments.queues import queue_of
from sebenza_ops.procedures import optional_text_param, procedure_defaults, procedure_id
from sebenza_ops.recovery.refresh_operators import (
    AcquireRefreshLeaseOperator,
    ExchangeDatabaseOperator,
    FinishRefreshOperator,
    PlanRefreshOperator,
    RestoreSnapshotOperator,
    TakeSnapshotOperator,
)
from sebenza_ops.recovery.refresh_rules import cron

GRACE = timedelta(minutes=30)


def make_dag(environment: Environment, source: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy, backup = environment.policies.refresh, source.policies.backup
    assert policy is not None
    assert backup is not None
    part = timedelta(seconds=backup.timeout_seconds) + GRACE
    restore = timedelta(seconds=environment.policies.backup_before_change.timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("refresh_staging", environment),
        dag_display_name=f"Refresh the database: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            schedule=cron(policy),
            # Both leases are waited for, an hour at most each.
            dagrun_timeout=part + 2 * restore + timedelta(hours=3),
            params={
                "set": optional_text_param(
                    "Label of the source's set to take; empty: the newest one that was read back.",
                    pattern="^([0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?)?$",
                ),
            },
        ),
    )
    def refresh_staging() -> None:
        name, of_source = environment.name, {"environment": source.name, "queue": queue_of(source)}
        plan = PlanRefreshOperator(task_id="plan_refresh", target=name, **of_source)
        snapshot = TakeSnapshotOperator(task_id="take_snapshot", plan=plan.output, execution_timeout=part, **of_source)
        lease = AcquireRefreshLeaseOperator(task_id="acquire_lease", environment=name)
        taken = {"environment": name, "plan": plan.output, "snapshot": snapshot.output}
        restored = RestoreSnapshotOperator(task_id="restore_beside", execution_timeout=restore, **taken)
        exchanged = ExchangeDatabaseOperator(task_id="exchange_database", copy=restored.output, **taken)
        finished = FinishRefreshOperator(
            task_id="finish", source=source.name, exchanged=exchanged.output, **taken
        ).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, snapshot, lease, restored, exchanged, finished)

    refresh_staging()


for environment in environments_with("refresh"):
    assert environment.policies.refresh is not None
    source = load_inventory().environments.get(environment.policies.refresh.source)
    # Without its source, or the source's backups, there is nothing to refresh from.
    if source is not None and source.policies.backup is not None:
        make_dag(environment, source)
