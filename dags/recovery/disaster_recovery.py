"""
# Disaster recovery

Brings the environment up at its secondary site, when the primary one is lost.

## When to run

When the primary site is gone, or will not be back within the recovery time objective. With `plan_only` it looks and
tells: what is lost, what would be lost, what it recommends. It does not wait for the lease: whatever runs is fenced
off. It goes on with the ledger down, and needs nothing of the primary site. Without Airflow, from the secondary site:
`make break-glass`.

`type`: `recommended` takes what the assessment recommends; `failover` promotes the secondary site's standby; `full`
restores all of the database from the site's own copy of the repository, when the standby is gone, broken or diverged;
`partial` restores the declared critical tables first, from the newest dump, and the rest while users are served.

## What it changes

1. Looks at every component of both sites from this worker and from every host that answers; compares the database
   servers of both sites; estimates what would be lost, and says which type it recommends, and why.
2. Asks, always, with a reason; no answer is a no. The environment is reserved meanwhile.
3. Fences the primary site: stops its database servers and keeps them from starting, and takes them away from its
   endpoint. What can't be reached there can't be stopped: the question says so beforehand. A server there that still
   takes connections, with its endpoint out of reach too, ends the run: nothing is promoted.
4. Promotes the standby, once it has replayed what it has received, and leads the site's endpoint to it. Or restores
   beside what is there, to the last archived WAL; compares the rows with the set's manifest; moves the old data
   directory aside, where it is kept, and puts the restored one in.
5. Starts the site's services and the last known good release, waits until it is healthy, and empties the site's cache.
6. Changes the DNS records to the site's addresses, and waits until every server and resolver answers them.
7. Proves it: one primary, a row written through the endpoint, pages as users get them. Measures the recovery time and
   point, compares them with the objectives; a miss is a finding with an owner.
8. After a partial restore: the rest of the dump is restored, compared, and proven with every page. Nobody can use it
   before.

Afterwards set `active_site` in the inventory to the secondary site, so that other procedures work there.

## How it undoes itself

It does not: the way back is `failback`. Before the promotion it can be ended at any time; start the primary's database
again with `switch_database_primary`, kind `rejoin`, or by its service manager.
A run that failed goes on when its failed task is cleared; what is done is seen in the estate.

## What can't run beside it

Nothing stops it but another disaster recovery that works or waits for its answer: the second is refused, and says who
has started the first, and when. With `take_over` it fences that one off, on every host of both sites that answers. With
the ledger down nobody knows of the other one: the later of two fences the earlier off.
"""

from datetime import timedelta

from airflow.sdk import Param, XComArg, chain, dag

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
from sebenza_ops.recovery.disaster_operators import (
    PLAN_TASK_ID,
    RECOMMENDED,
    ActivateApplicationOperator,
    ActivateDatabaseOperator,
    ApproveRecoveryOperator,
    AssessOperator,
    FenceSiteOperator,
    FinishRecoveryOperator,
    LeadUsersOperator,
    RestoreRestOperator,
    VerifyRecoveryOperator,
    VerifyWholeOperator,
)

# Without a policy for approvals, people have so long to decide.
DECIDE_TIME = timedelta(hours=1)
STEP_TIME = timedelta(minutes=30)
TEXT = f"{{{{ ti.xcom_pull('{PLAN_TASK_ID}')['text'] }}}}"
APPROVED_BY = "{{ (ti.xcom_pull('approve_recovery') or {}).get('approved_by', '') }}"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    approvals, backup = environment.policies.approvals, environment.policies.backup
    decide_time = timedelta(seconds=approvals.timeout_seconds) if approvals else DECIDE_TIME

    # It ends itself after as long as a backup may take.
    restore_time = (timedelta(seconds=backup.timeout_seconds) if backup else timedelta(0)) + STEP_TIME

    @dag(
        dag_id=procedure_id("disaster_recovery", environment),
        dag_display_name=f"Disaster recovery: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=timedelta(hours=4) + decide_time + 2 * restore_time,
            execution_timeout=STEP_TIME,
            tags=[EMERGENCY],
            params={
                "type": Param(
                    RECOMMENDED,
                    type="string",
                    enum=[RECOMMENDED, "failover", "full", "partial"],
                    description="recommended: what the assessment says. failover: promote the other site's standby. "
                    "full: restore all of it there. partial: the critical tables first, the rest later.",
                ),
                "reason": reason_param("What has happened.", required=True),
                "release_id": optional_text_param(
                    "What the application runs there; empty: the last known good release.",
                    pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$",
                ),
                "last_good_at": optional_text_param(
                    "When the service was last seen well (2026-11-25T03:12:00+00:00); empty: what the "
                    "estate says. Recovery time is measured from there.",
                    maxLength=40,
                ),
                "take_over": Param(
                    False,
                    type="boolean",
                    description="Fence off another disaster recovery that is under way, which nobody can go on with.",
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def disaster_recovery() -> None:
        name = environment.name
        plan = AssessOperator(task_id=PLAN_TASK_ID, environment=name)
        approved = ApproveRecoveryOperator(
            task_id="approve_recovery",
            environment=name,
            subject=f"Recover {name} at its secondary site, with the loss that is shown?",
            body=TEXT,
            approve="Recover at the secondary site",
            ask_reason=True,
            excluded=XComArg(plan, key="excluded"),
            response_timeout=decide_time,
        )
        fenced = FenceSiteOperator(
            task_id="fence_primary_site", environment=name, plan=plan.output, approved_by=APPROVED_BY
        )
        database = ActivateDatabaseOperator(
            task_id="activate_database", environment=name, plan=plan.output, execution_timeout=restore_time
        )
        application = ActivateApplicationOperator(task_id="activate_application", environment=name, plan=plan.output)
        led = LeadUsersOperator(task_id="lead_users", environment=name, plan=plan.output)
        verified = VerifyRecoveryOperator(task_id="verify_recovery", environment=name, plan=plan.output)
        rest = RestoreRestOperator(
            task_id="restore_rest", environment=name, plan=plan.output, execution_timeout=restore_time
        )
        whole = VerifyWholeOperator(task_id="verify_rest", environment=name, plan=plan.output)
        finished = FinishRecoveryOperator(task_id="finish", environment=name).as_teardown(on_failure_fail_dagrun=True)
        chain(plan, approved, fenced, database, application, led, verified, rest, whole, finished)
        plan >> [fenced, database, application, led, verified, rest, whole, finished]

    disaster_recovery()


for environment in environments_with("disaster_recovery"):
    make_dag(environment)
