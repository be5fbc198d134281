"""
# Switch of the database's primary

Makes the replica the primary, within one site. Applications are not touched: their address follows.

## When to run

- `planned`: before maintenance of the primary's host, or to go back after a failover. Both servers are well. Nothing is
  lost; new connections wait at the endpoint for about a second instead of failing.
- `unplanned`: the primary is dead, or must go at once. Shows what would be lost, and asks. It does not wait for the
  lease: whatever runs is fenced off. It goes on with the ledger down. Without Airflow: `make break-glass`.
- `rejoin`: a former primary whose host could not be reached in an unplanned switch is back, or both call themselves
  primaries. It is stopped, and made the replica of the one with the higher timeline.

With `plan_only` it shows who is what, and what would be lost.

## What it changes

1. Compares both servers and the endpoint: roles, timeline, cluster, slot, lag. A planned switch is refused when
   anything is not as it should be; nothing is changed then.
2. Asks: a planned switch where the environment asks for approvals, any other one always, and for the reason. The
   environment is reserved meanwhile.
3. Planned: looks again, writes a checkpoint, tells the old primary to start as a replica from now on, lets new
   connections wait, ends sessions as they become idle, stops it, and proves that both are at the same position.
   Unplanned: takes the old primary away from the endpoint, over restarts too, and stops it and keeps it from starting
   if its host can be reached; counts in its WAL what is lost.
4. Promotes the replica, and leads clients to it.
5. Makes the old primary the replica: by itself after a planned switch, otherwise rewound, or copied anew beside. What
   it alone had is kept. One that can't be reached is left out, which the summary says.
6. Writes a row through the endpoint and reads it on both servers. Stores the evidence, gives the lease back.

## How it undoes itself

A planned switch that does not come to a promotion starts the old primary again as the primary, and clients go on; no
client waits longer than `pause_limit_seconds`, whatever happens. After the promotion there is no way back but another
switch. An unplanned switch is not taken back.

## What can't run beside it

Planned: any change of the same environment; a run that finds the lease held is refused at once. Nothing stops an
unplanned one; of two, the later one fences the earlier off.
"""

from datetime import timedelta

from airflow.sdk import Param, TriggerRule, XComArg, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import EMERGENCY, plan_only_param, procedure_defaults, procedure_id, reason_param
from sebenza_ops.recovery.switch_operators import (
    PLAN_TASK_ID,
    PLANNED,
    REJOIN,
    UNPLANNED,
    ApproveSwitchOperator,
    FinishSwitchOperator,
    PlanSwitchOperator,
    RejoinOperator,
    SwitchPrimaryOperator,
    VerifySwitchOperator,
)

NEEDED = {
    PLANNED: ("approve_switchover", "switch_primary", "rejoin_old_primary", "verify_switch"),
    UNPLANNED: ("approve_failover", "switch_primary", "rejoin_old_primary", "verify_switch"),
    REJOIN: ("approve_failover", "rejoin_old_primary", "verify_switch"),
}
# Without a policy for approvals, people have so long to decide about a failover.
DECIDE_TIME = timedelta(hours=1)
GRACE = timedelta(minutes=5)
TEXT = "{{ ti.xcom_pull('plan_switch')['text'] }}"
APPROVED_BY = (
    "{{ (ti.xcom_pull('approve_failover') or ti.xcom_pull('approve_switchover') or {}).get('approved_by', '') }}"
)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    approvals, policy = environment.policies.approvals, environment.policies.database_switch
    assert policy is not None
    decide_time = timedelta(seconds=approvals.timeout_seconds) if approvals else DECIDE_TIME
    rebuild_time = timedelta(seconds=policy.rebuild_timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("switch_database_primary", environment),
        dag_display_name=f"Switch the database's primary: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=timedelta(hours=1) + decide_time + rebuild_time,
            tags=[EMERGENCY],
            params={
                "kind": Param(
                    PLANNED,
                    type="string",
                    enum=[PLANNED, UNPLANNED, REJOIN],
                    description="planned: both servers are well, nothing is lost. unplanned: the primary is dead. "
                    "rejoin: make a former primary that was left out the replica.",
                ),
                "reason": reason_param("Why the primary is switched.", required=True),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def switch_database_primary() -> None:
        name = environment.name
        plan = PlanSwitchOperator(task_id=PLAN_TASK_ID, environment=name, needed=NEEDED)
        decisions = [
            ApproveSwitchOperator(
                task_id="approve_failover",
                environment=name,
                switch_kind="{{ params.kind }}",
                subject=f"Switch the primary of {name}'s database, with the loss that is shown?",
                body=TEXT,
                approve="Switch the primary",
                ask_reason=True,
                excluded=XComArg(plan, key="excluded"),
                response_timeout=decide_time,
            )
        ]
        if approvals is not None:
            decisions.append(
                ApproveSwitchOperator(
                    task_id="approve_switchover",
                    environment=name,
                    switch_kind=PLANNED,
                    subject=f"Switch the primary of {name}'s database?",
                    body=TEXT,
                    approve="Switch the primary",
                    excluded=XComArg(plan, key="excluded"),
                    response_timeout=decide_time,
                )
            )
        # Each kind of run skips some of what is before these.
        rule = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
        switched = SwitchPrimaryOperator(
            task_id="switch_primary", environment=name, plan=plan.output, approved_by=APPROVED_BY, trigger_rule=rule
        )
        rejoined = RejoinOperator(
            task_id="rejoin_old_primary",
            environment=name,
            plan=plan.output,
            approved_by=APPROVED_BY,
            execution_timeout=rebuild_time,
            trigger_rule=rule,
        )
        verified = VerifySwitchOperator(task_id="verify_switch", environment=name, plan=plan.output)
        finished = FinishSwitchOperator(
            task_id="finish", environment=name, changing_task_ids=("switch_primary", "rejoin_old_primary")
        ).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, decisions, switched, rejoined, verified, finished)
        decisions >> rejoined
        plan >> [switched, rejoined, finished]

    switch_database_primary()


for environment in environments_with("database_switch"):
    make_dag(environment)
