"""A deployment as CI sees one: it asks, takes its time, fails when told to, and says at its end what it has done."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import Param, TriggerRule, dag, task

from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import START_DATE, check_first_task


@dag(
    dag_id="deploy_standard.sample",
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    max_active_runs=8,
    is_paused_upon_creation=False,
    default_args={"pre_execute": check_first_task, "execution_timeout": timedelta(minutes=5)},
    params={
        "version": Param(type="string", pattern="^[0-9a-f]{40}$", description="What is deployed."),
        "ask": Param(False, type="boolean", description="Whether somebody must approve it."),
        "seconds": Param(0, type="integer", description="How long it takes."),
        "fail": Param(False, type="boolean", description="Whether it fails."),
    },
)
def deploy_sample_from_ci() -> None:
    @task.branch
    def way_in(params: Any = None) -> str:
        return "approve" if params["ask"] else "deploy"

    approve = HumanDecisionOperator(
        task_id="approve",
        environment="sample",
        subject="Deploy to sample?",
        body="{{ params.version }}",
        response_timeout=timedelta(minutes=5),
    )

    @task(trigger_rule=TriggerRule.NONE_FAILED)
    def deploy(params: Any = None) -> None:
        time.sleep(params["seconds"])
        if params["fail"]:
            raise RuntimeError("app2 refused the release\n::error::not a command of the CI system")

    @task
    def finish(params: Any = None) -> str:
        return f"{params['version'][:12]} is live on sample"

    deployed = deploy()
    began = way_in()
    began >> approve >> deployed >> finish()
    began >> deployed


deploy_sample_from_ci()
