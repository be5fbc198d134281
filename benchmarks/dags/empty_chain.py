"""
# Empty tasks in a chain

Twenty tasks that do nothing, one after the other: what is left is what Airflow takes for a task. Only for
`python -m benchmarks`, which adds this folder to the local Airflow while it measures.
"""

from airflow.sdk import chain, dag, task

from sebenza_ops.procedures import START_DATE

TASKS = 20


@dag(
    dag_id="benchmark_empty_chain",
    doc_md=__doc__,
    schedule=None,
    start_date=START_DATE,
    catchup=False,
    is_paused_upon_creation=False,
    tags=["benchmark"],
)
def empty_chain() -> None:
    """The chain."""

    @task
    def nothing() -> None: ...

    chain(*(nothing.override(task_id=f"task_{number:02}")() for number in range(TASKS)))


empty_chain()
