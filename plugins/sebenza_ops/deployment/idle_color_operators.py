"""The end of a color's warm time, as operators."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowSkipException

from sebenza_ops.change_operators import RETRIES
from sebenza_ops.conclusion import say
from sebenza_ops.deployment.operators import DeploymentOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class StopLaterOperator(TriggerDagRunOperator):
    """Schedules the end of the old color's warm time: another procedure's run, at a time that is known only now.

    Give it a run id that is the same at each try: a try that was killed may have made the run.
    """

    safe_to_retry = True
    # The provider does not render it, and fails on the template's text as on a date.
    template_fields = (*TriggerDagRunOperator.template_fields, "run_after")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            **{"retries": RETRIES, "retry_delay": timedelta(0), "skip_when_already_exists": True, **kwargs}
        )


class StopIdleColorOperator(DeploymentOperator):
    """Stops a color's processes, if no load balancer sends to it and it still runs the release that was kept warm.

    Parameters of the run: `color`, and `release_id` of what was kept warm (empty: whatever runs there).
    """

    def execute(self, context: Context) -> None:
        """Says what was stopped; raises a skip with the reason when the color is live or runs another release now."""
        from sebenza_ops.deployment.idle_color import NotIdleError, stop_idle_color

        run = self.begin(context)
        parameters = context["params"]
        try:
            say(context, stop_idle_color(run, str(parameters["color"]), str(parameters.get("release_id") or "")))
        except NotIdleError as error:
            say(context, str(error))
            raise AirflowSkipException(str(error)) from error
