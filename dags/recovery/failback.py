"""
# Failback

Brings the environment back to its primary site after a disaster recovery, with nothing lost.

## When to run

When the primary site is back and trusted: its hosts answer, its storage is whole. Not in a hurry: the secondary site
serves. With `plan_only` it only tells whether it could.

## What it changes

1. Refuses unless every host of the primary site answers, and the secondary site's server alone is the primary.
2. Asks, with a reason.
3. Makes the primary site's database server follow the serving one: rewound, or copied anew beside. What it had alone
   since the disaster is kept beside it. Users do not notice; it may take hours.
4. Holds clients at the secondary site's endpoint, stops its server as a replica-to-be, promotes the primary site's when
   it has replayed the last record; starts the last known good release there, and changes DNS. Writes wait or fail from
   the move until users ask DNS again.
5. Proves it as a recovery does, and has the secondary site's server and the primary site's replica follow again.

Afterwards set `active_site` back in the inventory.

## How it undoes itself

A move that does not come to the promotion is taken back: the secondary site serves on, nothing is lost. After it, a run
that failed goes on when its failed task is cleared.

## What can't run beside it

Any change of the same environment; a run that finds the lease held is refused at once.
"""

from datetime import timedelta

from airflow.sdk import XComArg, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, plan_only_param, procedure_defaults, procedure_id, reason_param
from sebenza_ops.recovery.disaster_operators import PLAN_TASK_ID, ApproveRecoveryOperator
from sebenza_ops.recovery.failback_operators import (
    FinishFailbackOperator,
    MoveBackOperator,
    PlanFailbackOperator,
    RestoreReplicationOperator,
    ResynchronizeOperator,
    VerifyFailbackOperator,
)

# Without a policy for approvals, people have so long to decide.
DECIDE_TIME = timedelta(hours=1)
STEP_TIME = timedelta(minutes=30)
GRACE = timedelta(minutes=10)
TEXT = f"{{{{ ti.xcom_pull('{PLAN_TASK_ID}')['text'] }}}}"
APPROVED_BY = "{{ (ti.xcom_pull('approve_failback') or {}).get('approved_by', '') }}"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    approvals, switch = environment.policies.approvals, environment.policies.database_switch
    assert switch is not None
    decide_time = timedelta(seconds=approvals.timeout_seconds) if approvals else DECIDE_TIME
    rebuild_time = timedelta(seconds=switch.rebuild_timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("failback", environment),
        dag_display_name=f"Failback: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=timedelta(hours=2) + decide_time + 3 * rebuild_time,
            execution_timeout=STEP_TIME,
            params={
                "reason": reason_param("Why it goes back now.", required=True),
                "release_id": optional_text_param(
                    "What the application runs there; empty: the last known good release.",
                    pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$",
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def failback() -> None:
        name = environment.name
        plan = PlanFailbackOperator(task_id=PLAN_TASK_ID, environment=name)
        approved = ApproveRecoveryOperator(
            task_id="approve_failback",
            environment=name,
            subject=f"Bring {name} back to its primary site?",
            body=TEXT,
            approve="Go back to the primary site",
            ask_reason=True,
            excluded=XComArg(plan, key="excluded"),
            response_timeout=decide_time,
        )
        common = {"environment": name, "plan": plan.output, "approved_by": APPROVED_BY}
        following = ResynchronizeOperator(task_id="resynchronize", execution_timeout=rebuild_time, **common)
        moved = MoveBackOperator(task_id="move_back", **common)
        verified = VerifyFailbackOperator(task_id="verify_failback", **common)
        replicated = RestoreReplicationOperator(
            task_id="restore_replication", execution_timeout=2 * rebuild_time, **common
        )
        finished = FinishFailbackOperator(task_id="finish", environment=name).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, approved, following, moved, verified, replicated, finished)
        plan >> [following, moved, verified, replicated, finished]

    failback()


for environment in environments_with("disaster_recovery"):
    make_dag(environment)
