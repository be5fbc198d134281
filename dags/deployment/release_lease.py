"""
# Hand a stuck lease back

Ends the lease of a run that does not go on, after a person has seen what that run had done.

## When to run

When a change is refused because of a lease, its holder is dead or hangs, and the lease's own end is too far away. A
lease that is not renewed ends by itself, after two minutes while a task worked, after the wait's end while it waited:
often it is enough to wait.

## What it changes

1. Shows the lease: holder, purpose, since when, until when, what its run has done last, where traffic goes now.
2. Asks. Only who may answer questions (in the lab: approver and admin) can approve; without an answer within an hour
   nothing happens.
3. Ends exactly that lease, in the audit, and tells every host and load balancer a higher fencing token: what the former
   holder still sends is refused there.

Traffic and releases stay as they are. When the holder had moved traffic to a release that has not passed, the question
says so: clear that run afterwards, or start a rollback.

## How it undoes itself

It does not need to: the former holder, cleared, takes a new lease and goes on from what is live.

## What can't run beside it

Nothing. When the lease has changed between the question and the answer, nothing is ended, and the run fails.
"""

from datetime import timedelta

from airflow.sdk import chain, dag

from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.deployment.lease_operators import HandBackLeaseOperator, ShowLeaseOperator
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id, reason_param


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("release_lease", environment),
        dag_display_name=f"Hand a stuck lease back: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            params={"reason": reason_param("Why its holder can't give it back itself.", required=True)},
        ),
    )
    def release_lease() -> None:
        name = environment.name
        shown = ShowLeaseOperator(task_id="show_lease", environment=name)
        decided = HumanDecisionOperator(
            task_id="decide",
            environment=name,
            subject=f"Take the lease of {name} from its holder?",
            body="{{ ti.xcom_pull('show_lease')['text'] }}\n\nReason given: {{ params.reason.split() | join(' ') }}",
            approve="Hand it back",
            response_timeout=timedelta(hours=1),
        )
        handed_back = HandBackLeaseOperator(
            task_id="hand_back",
            environment=name,
            token="{{ ti.xcom_pull('show_lease')['token'] }}",
            approved_by="{{ ti.xcom_pull('decide')['approved_by'] }}",
        )
        chain(shown, decided, handed_back)

    release_lease()


for environment in environments_with("blue_green"):
    make_dag(environment)
