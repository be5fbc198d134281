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

1. Takes the lease from whoever holds it, and looks where traffic is and what runs.
2. While the old color is still warm, all load balancers switch to it at once: seconds after the start.
3. Otherwise the release is started on the color without traffic, and awaited, first. Nothing is stopped before.
4. Proves by two sources where traffic is, writes map files, markers and the last known good release.
5. Marks the release that was left bad in this environment, unless `mark_bad` is off: the next deployment of it is
   refused.
6. Stores the evidence report and gives the lease back.

The database is not touched: deployments only ever expand the schema, and old releases work with it. A release that
needs what a contract migration has taken away is refused.

## How it undoes itself

It does not: a person has decided. A rollback that could not be carried out leaves traffic where it was, or says loudly
that it is split and what to do. To go forward again, deploy.

## What can't run beside it

Nothing stops it. Two rollbacks at once: the later one fences the earlier off.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule, chain, dag

from sebenza_ops.deployment.operators import RecordDeploymentOperator
from sebenza_ops.deployment.rollback_operators import (
    FinishRollbackOperator,
    PlanRollbackOperator,
    StartTargetOperator,
    SwitchBackOperator,
)
from sebenza_ops.deployment.sensors import IdleColorHealthySensor
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import EMERGENCY, plan_only_param, procedure_defaults, procedure_id, reason_param

COLD = ("start_release", "await_healthy")


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("rollback", environment),
        dag_display_name=f"Roll back: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            dagrun_timeout=timedelta(hours=1),
            tags=[EMERGENCY],
            params={
                "reason": reason_param("Why the release that is live must go.", required=True),
                "to": Param(
                    "",
                    type="string",
                    pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
                    description="A version or a release id; empty: the last known good release.",
                ),
                "mark_bad": Param(
                    True, type="boolean", description="Refuse the release that is left from now on, until it is forced."
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def rollback() -> None:
        name = environment.name
        plan = PlanRollbackOperator(task_id="plan_rollback", environment=name, cold_task_ids=COLD)
        started = StartTargetOperator(task_id="start_release", environment=name, plan=plan.output)
        healthy = IdleColorHealthySensor(task_id="await_healthy", environment=name, plan=plan.output, emergency=True)
        switched = SwitchBackOperator(
            task_id="switch_back",
            environment=name,
            plan=plan.output,
            # Two tasks before it are skipped when the color is warm.
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        )
        recorded = RecordDeploymentOperator(
            task_id="record_rollback", environment=name, plan=plan.output, emergency=True
        )
        # Without a setup: Airflow allows nothing but "all succeeded" right after one, and a warm color skips two tasks.
        finished = FinishRollbackOperator(task_id="finish", environment=name).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, started, healthy, switched, recorded, finished)
        plan >> switched

    rollback()


for environment in environments_with("blue_green"):
    make_dag(environment)
