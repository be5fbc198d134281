"""
# Restore an application host

Brings an application host back from its backup after its machine was replaced: files, services, release, and its place
in rotation.

## When to run

When an application host was lost and an empty machine stands in its place, with its name, its address, the inventory's
SSH host key, and its packages installed (Nginx, Node.js, PM2, zstd). Give the `host`; without `backup` the newest set
is taken that can be read to its last byte now, and a damaged one is marked so and passed over.

## What it changes

1. Refuses, with nothing touched: a host that a load balancer sends to; one that people took out (maintenance); one that
   is not empty, unless `move_aside` is given; no agreement on what is live.
2. Takes the host out of rotation at every load balancer, so that nobody gets it before it is proven.
3. Decrypts the archive on its way and unpacks it beside. Every hash, owner and mode is compared with the manifest, the
   files are put into their places, and compared again. What was in the way is moved aside and kept; nothing is deleted.
4. Fetches the release that the *other* hosts run now from release storage, by its SHA-256, and compares it with what
   the backup has of it. Writes the settings anew from the inventory and the connections.
5. Starts PM2 with the live color and that release, then Nginx. It must be healthy, with that release, to itself and to
   every load balancer. Then it is put back into rotation, and each load balancer must say that it is up.
6. Stores the evidence report and gives the lease back.

## How it undoes itself

It does not need to: until it is proven, the host is out of rotation, and users are served by the others. A run that was
killed goes on when it is cleared. What was moved aside is in `/var/lib/sebenza-archive/aside` on the host.

## What can't run beside it

Any change of the environment: it holds the lease from its first task to its last, and hosts and load balancers refuse
what an earlier run still sends.
"""

from datetime import timedelta

from airflow.sdk import Param, chain, dag

from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, plan_only_param, procedure_defaults, procedure_id
from sebenza_ops.recovery.restore_operators import (
    AcquireRestoreLeaseOperator,
    FinishRestoreOperator,
    PlanRestoreOperator,
    RestoreFilesOperator,
    StartAndProveOperator,
)
from sebenza_ops.recovery.restore_rules import restorable_hosts

BACKUP_PATTERN = r"^([0-9]{8}T[0-9]{6}Z-[0-9a-f]{8})?$"
RELEASE_PATTERN = r"^([A-Za-z0-9][A-Za-z0-9._-]{0,199})?$"
GRACE = timedelta(minutes=5)


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""
    policy = environment.policies.application_backup
    assert policy is not None
    # Unpacking and placing, each with a time limit of its own.
    files_time = timedelta(seconds=2 * policy.timeout_seconds) + GRACE

    @dag(
        dag_id=procedure_id("restore_application", environment),
        dag_display_name=f"Restore an application host: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "recovery",
            params={
                "host": Param(
                    type="string",
                    enum=[host.name for host in restorable_hosts(environment)],
                    description="The host whose machine was replaced.",
                ),
                "backup": optional_text_param(
                    "The set's label, as backup_application shows it; empty: the newest good one.",
                    pattern=BACKUP_PATTERN,
                ),
                "release_id": optional_text_param(
                    "What must run on it; empty: what the other hosts of the live color run.",
                    pattern=RELEASE_PATTERN,
                ),
                "move_aside": Param(
                    False,
                    type="boolean",
                    description="Move files that are in the way aside, and keep them; else the host must be empty.",
                ),
                "plan_only": plan_only_param(),
            },
        ),
    )
    def restore_application() -> None:
        name = environment.name
        lease = AcquireRestoreLeaseOperator(task_id="acquire_lease", environment=name)
        plan = PlanRestoreOperator(task_id="plan_restore", environment=name)
        files = RestoreFilesOperator(
            task_id="restore_files", environment=name, plan=plan.output, execution_timeout=files_time
        )
        proven = StartAndProveOperator(task_id="start_and_prove", environment=name, plan=plan.output)
        finished = FinishRestoreOperator(task_id="finish", environment=name, proven=proven.output).as_teardown(
            setups=lease, on_failure_fail_dagrun=True
        )
        chain(lease, plan, files, proven, finished)

    restore_application()


for environment in environments_with("application_backup"):
    if restorable_hosts(environment):
        make_dag(environment)
