"""
# Blue-green deployment

Brings a release to the idle color of an environment, proves that it is healthy there, moves all traffic to it on
every load balancer at once, proves that by two sources, and watches it. When a rollback trigger fires, traffic goes
back within seconds and the release is marked bad.

## When to run

To deploy a release without downtime. Give `version`: a tag (`v1.1.0`), a branch or a commit. With `plan_only` it shows
what would change on which host, and stops there. CI starts it over the REST API.

## What it changes

0. Where the environment demands it: reserves it, and asks the gates, the environment that goes first with its smoke
   tests, and a person, before anything is changed; and backs the database up.
1. Takes the environment's lease, or says at once who holds it.
2. Builds the release once, or finds it in object storage.
3. Compares load balancers, their files, PM2's processes and releases; a contradiction ends the run, a missing marker
   is repaired from the load balancers. Shows the plan.
4. Installs the release on all application hosts, runs its *expand* migrations, starts the idle color.
5. Waits until every load balancer reaches a healthy process of exactly this release on every host.
6. Judges the live release first, by the same triggers: an environment that is unwell already refuses the switch, unless
   `cure_reason` says that this release is the cure. Warms it up, switches all load balancers at runtime, proves it by
   requests and by counters, writes map file and marker, and watches for `bake_seconds`: health, ratio of failed
   requests (more than 5%), 95th percentile of the response time (more than 5 s), critical alerts.
7. Waits for the old color's last sessions, and records the last known good release meanwhile. The old color keeps
   running for `keep_warm_seconds`, so that a rollback is instant, and is stopped then by `stop_idle_color`.
8. Stores the evidence report and gives the lease back.

## How it undoes itself

A trigger, or no data to judge by for the policy's hold time, moves all traffic back in the same task, proven by the
same two sources. A run that is marked failed, or whose worker dies for good, is settled by its last task: a release
that had not passed is taken back. Expand migrations stay: old releases work with them. Clearing a failed run starts it
again from what is live then; a run that a later change has superseded is refused.

## What can't run beside it

Any other change of the same environment: it is refused at once with the holder's name. Other environments are not
touched.
"""

from datetime import timedelta

from airflow.sdk import Param, chain, dag

from sebenza_ops.deployment.idle_color_operators import StopLaterOperator
from sebenza_ops.deployment.operators import (
    DeployToIdleColorOperator,
    FinishDeploymentOperator,
    RecordDeploymentOperator,
    SwitchProveAndBakeOperator,
)
from sebenza_ops.deployment.params import cure_reason_param, force_reason_param, policy_override_param, version_param
from sebenza_ops.deployment.sensors import DrainedSensor, IdleColorHealthySensor
from sebenza_ops.deployment.way_in import deployment_timeout, has_way_in, way_in
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import plan_only_param, procedure_defaults, procedure_id


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("deploy_blue_green", environment),
        dag_display_name=f"Deploy blue-green: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            dagrun_timeout=deployment_timeout(environment),
            params={
                "version": version_param(),
                "plan_only": plan_only_param(),
                "bake_seconds": policy_override_param("Watch the new release for so long", 5, 3600),
                "keep_warm_seconds": policy_override_param("Keep the old color running for so long", 0, 86400),
                "force_reason": force_reason_param(),
                "cure_reason": cure_reason_param(),
                "converge_to": Param(
                    None,
                    type=["null", "string"],
                    enum=[None, "blue", "green"],
                    description="Only when the load balancers disagree: the color to keep live before deploying.",
                ),
            },
        ),
    )
    def deploy_blue_green() -> None:
        name = environment.name
        before = way_in(environment, "blue_green")
        plan = before.plan
        idle_color = DeployToIdleColorOperator(task_id="deploy_to_idle_color", environment=name, plan=plan.output)
        idle_healthy = IdleColorHealthySensor(task_id="await_idle_healthy", environment=name, plan=plan.output)
        switched = SwitchProveAndBakeOperator(
            task_id="switch_prove_and_bake", environment=name, plan=plan.output, execution_timeout=timedelta(hours=3)
        )
        drained = DrainedSensor(task_id="drain_old_color", environment=name, plan=plan.output)
        recorded = RecordDeploymentOperator(task_id="record_deployment", environment=name, plan=plan.output)
        stop_later = StopLaterOperator(
            task_id="stop_later",
            trigger_dag_id=f"stop_idle_color.{name}",
            trigger_run_id="after__{{ run_id }}__{{ dag_run.clear_number }}",
            run_after="{{ ti.xcom_pull('switch_prove_and_bake')['stop_at'] }}",
            conf={
                "color": "{{ ti.xcom_pull('switch_prove_and_bake')['warm_color'] }}",
                "release_id": "{{ ti.xcom_pull('switch_prove_and_bake')['warm_release_id'] }}",
            },
            skip_when_already_exists=True,
        )
        finished = FinishDeploymentOperator(
            task_id="finish", environment=name, has_way_in=has_way_in(environment)
        ).as_teardown(setups=before.begins, on_failure_fail_dagrun=True)
        chain(before.ready, idle_color, idle_healthy, switched, [drained, recorded, stop_later], finished)

    deploy_blue_green()


for environment in environments_with("blue_green"):
    make_dag(environment)
