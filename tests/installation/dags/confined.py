"""What a task of each queue may know, and a wait in its triggerer: for tests of an installation with workers."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseHook, BaseOperator, chain, dag, task
from airflow.sdk.exceptions import AirflowNotFoundException

QUEUES = ("default", "staging")
SECRET = "sebenza_staging_ssh"


class WaitOperator(BaseOperator):
    """Waits a moment in the triggerer."""

    safe_to_retry = True

    def execute(self, context: Any) -> None:
        """Park until a second has passed."""
        self.defer(
            trigger=DateTimeTrigger(moment=datetime.now(UTC) + timedelta(seconds=1)), method_name="execute_complete"
        )

    def execute_complete(self, context: Any, event: Any) -> None:
        """Go on."""


@dag(dag_id="confined", schedule=None, start_date=datetime(2025, 1, 1, tzinfo=UTC), default_args={"retries": 2})
def confined() -> None:
    """For each queue: whether it can read staging's login, then a wait."""
    for queue in QUEUES:

        @task(task_id=f"ask_{queue}", queue=queue)
        def ask() -> bool:
            try:
                return BaseHook.get_connection(SECRET).login is not None
            except AirflowNotFoundException:
                return False

        chain(ask(), WaitOperator(task_id=f"wait_{queue}", queue=queue))


confined()
