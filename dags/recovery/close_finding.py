"""
# Close a finding

Closes what a drill or a disaster recovery has found (a missed objective, a failed step, an escrow that is out of date),
with what was done about it.

## When to run

When it is mended, and was seen to be: after a drill that kept its objectives, for example. Open findings are on the
console's page, each with its number and its owner; `finding_id` is that number, `done` what was done.

## What it changes

The ledger only: an entry in the audit, where the finding itself stays for ever. An approver decides whether what was
done mends it; in production that is not who has started the run. A number that is not open is refused, with those that
are.

## How it undoes itself

It does not: the next drill finds what is not mended.

## What can't run beside it

Nothing is in its way.
"""

from datetime import timedelta

from airflow.sdk import Param, XComArg, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id
from sebenza_ops.recovery.finding_operators import ApproveClosingOperator, CloseFindingOperator, ShowFindingOperator

DECIDE_TIME = timedelta(days=1)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("close_finding", environment),
        dag_display_name=f"Close a finding: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            dagrun_timeout=DECIDE_TIME + timedelta(hours=1),
            params={
                "finding_id": Param(
                    type="integer", minimum=1, description="The finding's number, as the console shows it."
                ),
                "done": Param(
                    type="string",
                    minLength=10,
                    maxLength=1000,
                    description="What was done about it, and how it was seen to be mended.",
                ),
            },
        ),
    )
    def close_finding() -> None:
        name = environment.name
        shown = ShowFindingOperator(task_id="show_finding", environment=name)
        decided = ApproveClosingOperator(
            task_id="decide",
            environment=name,
            subject=f"Is this finding of {name} mended?",
            body="{{ ti.xcom_pull('show_finding')['text'] }}",
            approve="Close it",
            excluded=XComArg(shown),
            response_timeout=DECIDE_TIME,
        )
        closed = CloseFindingOperator(
            task_id="close_finding",
            environment=name,
            approved_by="{{ ti.xcom_pull('decide')['approved_by'] }}",
        )
        chain(shown, decided, closed)

    close_finding()


for environment in environments_with("disaster_recovery"):
    make_dag(environment)
