"""
# Stop the idle color

Stops the processes of the color that takes no traffic, on all application hosts.

## When to run

A blue-green deployment schedules it for the end of the old color's warm time. Run it by hand to free memory earlier:
a rollback to that color then takes as long as a start.

## What it changes

PM2's processes of the named color. Only when every load balancer says that the other color is live, and only while the
color still runs the named release: a deployment that came later is left alone, and the run is skipped.

## How it undoes itself

It does not need to: the release stays installed, and the next deployment or rollback starts what it needs.

## What can't run beside it

Any change of the same environment. While one holds the lease, this run steps back and tries again every ten minutes;
after an hour it is skipped. A deployment that went on in the meantime has replaced the idle color itself: then there
is nothing to stop.
"""

from airflow.sdk import Param, XComArg, dag

from sebenza_ops.conclusion import SENTENCE
from sebenza_ops.deployment.idle_color_operators import StopIdleColorOperator
from sebenza_ops.deployment.operators import AcquireLeaseOperator, ReleaseLeaseOperator
from sebenza_ops.deployment.params import TARGET_PATTERN
from sebenza_ops.environments.inventory import environments_with
from sebenza_ops.environments.models import Environment
from sebenza_ops.procedures import optional_text_param, procedure_defaults, procedure_id


def make_dag(environment: Environment) -> None:
    """The procedure's DAG for one environment."""

    @dag(
        dag_id=procedure_id("stop_idle_color", environment),
        dag_display_name=f"Stop idle color: {environment.name}",
        doc_md=__doc__,
        **procedure_defaults(
            environment,
            "deployment",
            params={
                "color": Param(type="string", enum=["blue", "green"], description="The color to stop."),
                "release_id": optional_text_param(
                    "Stop it only while it runs this release; empty: whatever runs there.",
                    pattern=TARGET_PATTERN,
                ),
            },
        ),
    )
    def stop_idle_color() -> None:
        lease = AcquireLeaseOperator(task_id="acquire_lease", environment=environment.name, housekeeping=True)
        stopped = StopIdleColorOperator(task_id="stop_idle_color", environment=environment.name)
        released = ReleaseLeaseOperator(
            task_id="release_lease", environment=environment.name, said=XComArg(stopped, key=SENTENCE)
        ).as_teardown(setups=lease, on_failure_fail_dagrun=True)
        lease >> stopped >> released

    stop_idle_color()


for environment in environments_with("blue_green"):
    make_dag(environment)
