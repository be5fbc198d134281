"""DAGs that show one behaviour of Airflow each, for the tests of the local Airflow."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Param, dag, task

from sebenza_ops.procedures import START_DATE, check_first_task


def _sample(dag_id: str, **arguments: Any) -> Any:
    return dag(
        dag_id=dag_id,
        schedule=None,
        start_date=START_DATE,
        catchup=False,
        is_paused_upon_creation=False,
        default_args={"pre_execute": check_first_task, "execution_timeout": timedelta(minutes=5)},
        **arguments,
    )


@_sample(
    "deploy_sample.test",
    params={
        "version": Param("v1", type="string", pattern="^v[0-9]+$", description="What is deployed."),
        "fail": Param(False, type="boolean", description="Whether it fails."),
    },
)
def deploy_sample() -> None:
    @task
    def deploy(params: dict[str, Any] | None = None) -> str:
        assert params is not None
        if params["fail"]:
            raise RuntimeError("app2 refused the release")
        return str(params["version"])

    @task
    def verify(version: Any) -> str:
        print(f"{version} answers")
        return f"{version} answers"

    verify(deploy())


@_sample("work_sample.test")
def work_sample() -> None:
    @task(retries=3, retry_delay=timedelta(0))
    def work(ti: Any = None, task_state_store: Any = None) -> int:
        """Works for as long as it is let in its first try, and ends at once in the second."""
        import time

        task_state_store.set("begun", ti.try_number)
        while ti.try_number == 1:
            time.sleep(0.2)
        return int(ti.try_number)

    work()


@_sample("ask_sample.test")
def ask_sample() -> None:
    ApprovalOperator(
        task_id="ask", subject="Deploy v1?", defaults="Reject", response_timeout=timedelta(minutes=5), retries=2
    )


@_sample("paused_sample.test")
def paused_sample() -> None:
    @task
    def nothing() -> None: ...

    nothing()


deploy_sample()
work_sample()
ask_sample()
paused_sample()
