"""
# Restore to a point in time

Takes the whole database server back to a moment before something went wrong: restored beside the running one, checked,
shown, and exchanged only when a human approves.

## When to run

When data was destroyed or changed by mistake, and it can't be mended by hand. For one table, `restore_database` is
gentler: it takes nothing back. Give one target:

- `time`: with its time zone, "2026-03-29 15:30:00+02:00" or "2026-03-29 15:30 Africa/Johannesburg". Without one it is
  refused, and so is an hour that the clocks made twice.
- `name`: a named restore point; the newest of that name.
- `lsn`, `xid`: a position in the WAL, or a transaction. With `exclusive` it stops right before it.

With `plan_only` it says whether the target can be reached, from which set, and what can be reached otherwise.

## What it changes

1. Brings the archive up to now (a commit, a WAL segment), and holds the target against what the repository has: sets,
   WAL without a gap, restore points, transactions. What can't be reached is refused, with what can be.
2. Restores set and WAL beside the primary's data directory; pg_amcheck, pg_checksums, rows of every table. The copy
   listens on no network and archives nothing.
3. Asks, with the last commit, and every table that differs from now. The copy runs meanwhile, for reading.
4. Sets a restore point, holds clients at the endpoint, stops the primary, moves its data directory aside, moves the
   copy in, starts it, lets clients in. Seconds.
5. Makes the replica follow: rewound, or copied anew beside. Proves pair, rows, endpoint, and that WAL arrives.
6. Starts a full backup of the new timeline, and does not wait for it.

No backup set is removed while the archive is read and the copy is restored: a backup that ends just then leaves that
to the next one. While a backup removes old sets, which takes some minutes at most, a restore waits for it.

## How it undoes itself

Until the approval nothing is changed but disk space: rejected or failed, the copy is removed. An exchange that does not
come to an end is taken back: the former directory is the cluster again. Afterwards: the former directory is kept as
`<data>.before-…`, and a restore to the `name` that the summary says, on the former `timeline`, comes back to it.
When a step after the exchange fails, make the full backup yourself: the summary reminds you.

## What can't run beside it

Any change of the environment: it holds the lease, and reserves the environment while people decide. A freeze does not
stop it. A backup that works during the exchange fails, and is started again.
"""

from datetime import timedelta

from airflow.sdk import Param, XComArg, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, plan_only_param, procedure_defaults, procedure_id, reason_param
from sebenza_ops.recovery.point_operators import (
    BACK_UP_TASK_ID,
    PLAN_TASK_ID,
    ApprovePointRestoreOperator,
    BackUpAnewOperator,
    ExchangeClusterOperator,
    FinishPointRestoreOperator,
    PlanPointRestoreOperator,
    RebuildReplicaOperator,
    RestoreBesideOperator,
    VerifyPointRestoreOperator,
)

GRACE = timedelta(minutes=30)
# Without a policy for approvals, people have so long.
DECIDE_TIME = timedelta(hours=8)
SET_PATTERN = r"^([0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?)?$"
BACKUP_RUN = "after__{{ run_id }}__{{ dag_run.clear_number }}"
APPROVED_BY = "{{ (ti.xcom_pull('approve_exchange') or {}).get('approved_by', '') }}"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policies = environment.policies
    assert policies.backup is not None
    assert policies.database_switch is not None
    approvals = policies.approvals
    decide_time = timedelta(seconds=approvals.timeout_seconds) if approvals else DECIDE_TIME
    # The archive is read, the copy is restored, and counted.
    part = timedelta(seconds=policies.backup.timeout_seconds) + GRACE
    rebuild_time = timedelta(seconds=policies.database_switch.rebuild_timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("restore_point_in_time", environment),
        dag_display_name=f"Restore to a point in time: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=4 * part + decide_time + rebuild_time,
            params={
                "target_type": Param(
                    "time",
                    type="string",
                    enum=["time", "name", "lsn", "xid"],
                    description="What the target is: a time, a named restore point, a position in the WAL (0/3000060), "
                    "or a transaction id.",
                ),
                "target": Param(
                    type="string",
                    minLength=1,
                    maxLength=100,
                    pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:+/-]*$",
                    description="Where to stop. A time needs its zone: 2026-03-29 15:30:00+02:00, or "
                    "2026-03-29 15:30 Africa/Johannesburg.",
                ),
                "exclusive": Param(
                    False, type="boolean", description="Stop right before it: without the transaction that did it."
                ),
                "timeline": Param(
                    0,
                    type="integer",
                    minimum=0,
                    maximum=2**31 - 1,
                    description="The history to follow; 0: the primary's. Another one to come back to what an earlier "
                    "restore has left.",
                ),
                "set": optional_text_param(
                    "Label of the set to restore from; empty: the newest sound one before the target.",
                    pattern=SET_PATTERN,
                ),
                "reason": reason_param("Why the database goes back.", required=True),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def restore_point_in_time() -> None:
        name = environment.name
        plan = PlanPointRestoreOperator(task_id=PLAN_TASK_ID, environment=name, execution_timeout=part)
        restored = RestoreBesideOperator(
            task_id="restore_beside", environment=name, plan=plan.output, execution_timeout=2 * part
        )
        approved = ApprovePointRestoreOperator(
            task_id="approve_exchange",
            environment=name,
            switch_kind="point-in-time",
            emergency=False,
            subject=f"Put the restored database in the place of {name}'s?",
            body="{{ ti.xcom_pull('restore_beside')['text'] }}",
            approve="Exchange the database",
            ask_reason=True,
            excluded=XComArg(plan, key="excluded"),
            response_timeout=decide_time,
        )
        common = {"environment": name, "plan": plan.output, "copy": restored.output, "approved_by": APPROVED_BY}
        exchanged = ExchangeClusterOperator(task_id="exchange_cluster", **common)
        rebuilt = RebuildReplicaOperator(task_id="rebuild_replica", execution_timeout=rebuild_time, **common)
        verified = VerifyPointRestoreOperator(task_id="verify_restore", execution_timeout=part, **common)
        backed_up = BackUpAnewOperator(
            task_id=BACK_UP_TASK_ID,
            trigger_dag_id=f"backup_database.{name}",
            trigger_run_id=BACKUP_RUN,
            conf={"type": "full"},
        )
        finished = FinishPointRestoreOperator(task_id="finish", environment=name, backup_run=BACKUP_RUN).as_teardown(
            on_failure_fail_dagrun=True
        )
        chain(plan, restored, approved, exchanged, rebuilt, verified, backed_up, finished)

    restore_point_in_time()


# The exchange holds clients at the endpoint, and the replica is rebuilt: what the switch needs, this needs too.
for environment in environments_with("database_switch"):
    if environment.policies.backup is not None:
        make_dag(environment)
