"""Checking an environment, as an operator."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.environments.models import Environment
    from sebenza_ops.estate.findings import EstateReport


class CheckEnvironmentOperator(BaseOperator):
    """Logs in everywhere, looks at everything that the procedures need, and says what is missing. Changes nothing.

    The log has the report as a table, XCom as JSON, the object storage as a page. Fails when something that is required
    is missing, or could not be asked.

    Args:
        environment: Name of the environment in the inventory.
    """

    ui_color = "#e6ecd8"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.environment = environment

    def execute(self, context: Context) -> str:
        """Returns the report's summary."""
        from sebenza_ops.changes import ChangeRefusedError, find_environment
        from sebenza_ops.conclusion import say, say_to_do
        from sebenza_ops.estate.findings import render_table

        try:
            environment = find_environment(self.environment)
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        report = inspect_environment(environment)
        self.log.info("%s", render_table(report))
        self._store(context, environment, report)
        # Before the failure: what is missing is of most use then.
        context["ti"].xcom_push(key="report", value=report.model_dump(mode="json"))
        say_to_do(context, report.worst())
        if not report.is_ready:
            sentence = f"{report.summary()}. Nothing was changed; the report says what to do"
            # An environment that is checked for the first time may have no ledger to keep it.
            say(context, sentence)
            raise AirflowFailException(sentence)
        return report.summary()

    def _store(self, context: Context, environment: Environment, report: EstateReport) -> None:
        from sebenza_ops.changes import holder_of
        from sebenza_ops.estate.page import render_page
        from sebenza_ops.evidence.store import store_report
        from sebenza_ops.systems.errors import OutsideSystemError
        from sebenza_ops.systems.object_store import ObjectStorage

        if not any(finding.host == "object storage" and finding.check == "sign" for finding in report.findings):
            self.log.warning("The report is not stored: the object storage does not work")
            return
        holder = holder_of(context)
        page = render_page(report, holder.dag_id, holder.run_id, holder.actor)
        storage = ObjectStorage(environment.object_store)
        try:
            key = store_report(page, environment, holder.dag_id, holder.run_id, storage)
        except OutsideSystemError as error:
            self.log.warning("The report is not stored: %s", error)
            return
        self.log.info("The report as a page: %s in bucket %s", storage.full_key(key), environment.object_store.bucket)


def inspect_environment(environment: Environment) -> EstateReport:
    """Gather and judge everything of one environment."""
    from sebenza_ops.environments.inventory import load_inventory
    from sebenza_ops.estate.gather import gather
    from sebenza_ops.estate.judge import judge

    build = load_inventory().build
    started_at = datetime.now(UTC)
    reading = gather(environment, build)
    # The salt makes hashes of secrets comparable within this report, and of no use outside of it.
    return judge(environment, build, reading, secrets.token_bytes(32), started_at, datetime.now(UTC))
