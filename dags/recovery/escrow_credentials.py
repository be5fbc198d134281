"""
# Escrow of credentials

Seals every credential that a recovery from the secondary site needs for the operators, and puts the file there.

## When to run

Once when the secondary site is set up, and after any change of a password or a key that the inventory names. A drill
tells when it is out of date. Weekly by schedule (switch its DAG on once).

## What it changes

One object in the secondary site's object storage, `escrow/<environment>.yaml.age`: the connections that the inventory
names while that site serves, in the format of `make break-glass`, encrypted with age for the policy's `recipient`.
Opened with the operators' identity it is the credentials file:

    age --decrypt --identity operators.key production.yaml.age > credentials.yaml && chmod 600 credentials.yaml

Nothing of it is in a log, in XCom or in the ledger. It is refused when a connection is missing.

## How it undoes itself

It does not. Run it again; the storage's own versions keep the ones before.

## What can't run beside it

A drill, or a second one of these: whoever comes second is refused.
"""

from airflow.sdk import dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import procedure_defaults, procedure_id
from sebenza_ops.recovery.drill_operators import SealEscrowOperator

# Sunday, before the week's full backup.
WEEKLY = "15 0 * * 0"


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("escrow_credentials", environment),
        dag_display_name=f"Escrow of credentials: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(environment, "recovery", schedule=WEEKLY),
    )
    def escrow_credentials() -> None:
        SealEscrowOperator(task_id="seal_credentials", environment=environment.name)

    escrow_credentials()


for environment in environments_with("disaster_recovery"):
    policy = environment.policies.disaster_recovery
    if policy is not None and policy.escrow is not None:
        make_dag(environment)
