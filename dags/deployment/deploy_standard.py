"""
# Standard deployment

Brings a release to an environment host by host, inside the live color: a host is taken out of rotation at every load
balancer, gets the release, is proven, and is put back. When a rollback trigger fires, the rollout stops and the hosts
that have the release go back to the one before.

## When to run

To deploy a release that can run beside the one that is live, when there are not enough resources for both colors, or
when users should meet it little by little. Give `version`: a tag (`v1.1.0`), a branch or a commit. With `plan_only` it
shows what would change on which host, and stops there. Going back is faster after a blue-green deployment, which keeps
the old release running.

## What it changes

0. Where the environment demands it: reserves it, and asks the gates, the environment that goes first with its smoke
   tests, and a person, before anything is changed; and backs the database up. The same as for a blue-green deployment.
1. Takes the environment's lease, or says at once who holds it.
2. Builds the release once, or finds it in object storage.
3. Compares load balancers, their files, PM2's processes and releases, and shows the plan. Hosts of different releases,
   which a rollout that could not go back may have left, are no obstacle: this is what makes them one.
4. Installs the release on all application hosts and runs its *expand* migrations. What runs is not touched.
5. Judges the live release by the triggers: an environment that is unwell already refuses the rollout, unless
   `cure_reason` says that this release is the cure. Then one batch after another (`batch_size`, one host): drains it at
   all load balancers, waits for its last sessions, starts the release, waits until every load balancer reaches exactly
   this release, healthy, warms it up, puts it back, and watches it for `watch_seconds`: health, ratio of failed
   requests, response time, critical alerts. Never fewer than the policy's `minimum_in_rotation` hosts are in rotation;
   each load balancer itself refuses that.
6. Proves by requests and by counters that users get this release and nothing else, and watches it for `bake_seconds`.
7. Records the last known good release, and removes old ones from the hosts.
8. Stores the evidence report and gives the lease back.

## How it undoes itself

A trigger, a host that does not become healthy or is lost, a load balancer that can't be told, or no data to judge by
for the policy's hold time: the hosts that have the release are drained at once and go back to the one before. A host
that can't be reached stays out of rotation, and is named; clear the run when it is mended, and it goes on with the way
back.
A run that is marked failed, or whose worker dies for good, is settled by its last task. Expand migrations stay.

## What can't run beside it

Any other change of the same environment: it is refused at once with the holder's name. Other environments are not
touched.
"""

from datetime import timedelta

from airflow.sdk import chain, dag

from sebenza_ops.deployment.operators import (
    FinishDeploymentOperator,
    PrepareHostsOperator,
    RecordDeploymentOperator,
    RollOutOperator,
)
from sebenza_ops.deployment.params import cure_reason_param, force_reason_param, policy_override_param, version_param
from sebenza_ops.deployment.way_in import deployment_timeout, has_way_in, way_in
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import plan_only_param, procedure_defaults, procedure_id


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("deploy_standard", environment),
        dag_display_name=f"Deploy host by host: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            dagrun_timeout=deployment_timeout(environment),
            params={
                "version": version_param(),
                "plan_only": plan_only_param(),
                "batch_size": policy_override_param("Change so many hosts at once", 1, 100),
                "watch_seconds": policy_override_param("Watch each batch for so long", 5, 3600),
                "bake_seconds": policy_override_param("Watch all hosts at the end for so long", 5, 3600),
                "force_reason": force_reason_param(),
                "cure_reason": cure_reason_param(),
            },
        ),
    )
    def deploy_standard() -> None:
        name = environment.name
        before = way_in(environment, "rolling")
        plan = before.plan
        hosts_ready = PrepareHostsOperator(task_id="prepare_hosts", environment=name, plan=plan.output)
        rolled_out = RollOutOperator(
            task_id="roll_out", environment=name, plan=plan.output, execution_timeout=timedelta(hours=4)
        )
        recorded = RecordDeploymentOperator(task_id="record_deployment", environment=name, plan=plan.output)
        finished = FinishDeploymentOperator(
            task_id="finish", environment=name, has_way_in=has_way_in(environment)
        ).as_teardown(setups=before.begins, on_failure_fail_dagrun=True)
        chain(before.ready, hosts_ready, rolled_out, recorded, finished)

    deploy_standard()


for environment in environments_with("rolling"):
    make_dag(environment)
