"""The base of every procedure's steps that work under an environment's lease."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRefusedError, ChangeRun

if TYPE_CHECKING:
    from airflow.sdk import Context

# A killed task is started again at once: what it watches goes on without it.
RETRIES = 2
# Housekeeping that finds the environment held comes back this often, for an hour.
HOUSEKEEPING_RETRIES = 6
HOUSEKEEPING_RETRY_DELAY = timedelta(minutes=10)


class ChangeOperator(BaseOperator):
    """Base of the steps of a procedure that changes an environment: idempotent, so retried without delay.

    Args:
        environment: Name of the environment in the inventory.
        emergency: Part of a procedure that goes on while the ledger is down.
    """

    safe_to_retry = True
    ui_color = "#dbe7f3"
    # What holds only its own kind back holds a lease beside the environment's: `<environment>.<suffix>`.
    lease_suffix = ""

    def __init__(self, *, environment: str, emergency: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("retries", RETRIES)
        kwargs.setdefault("retry_delay", timedelta(0))
        super().__init__(**kwargs)
        self.environment = environment
        self.emergency = emergency

    def lease_ttl_seconds(self, run: ChangeRun) -> float:
        """The lease's life without renewal, by the environment's policy."""
        policy = run.environment.policies.blue_green
        return float(policy.lease_ttl_seconds) if policy is not None else 120.0

    def purpose(self, context: Context) -> str:
        """What the lease is held for, in words."""
        return f"{self.dag_id.partition('.')[0]} {context['params'].get('version', '')}".strip()

    def find_run(self, context: Context) -> ChangeRun:
        """The run, with the lease that its procedure holds."""
        return ChangeRun.from_context(
            context, self.environment, emergency=self.emergency, lease_suffix=self.lease_suffix
        )

    def join(self, context: Context) -> ChangeRun:
        """The run's hold on the environment, for a step that changes nothing on hosts."""
        run = self.find_run(context)
        try:
            run.join(self.purpose(context), self.lease_ttl_seconds(run))
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return run

    def begin(self, context: Context) -> ChangeRun:
        """This attempt's hold on the environment, with a fencing token of its own."""
        run = self.find_run(context)
        try:
            run.begin_attempt(self.purpose(context), self.lease_ttl_seconds(run))
        except ChangeRefusedError as error:
            raise AirflowFailException(str(error)) from error
        return run


def tasks_that_failed(states: Mapping[str, Any], own_task_id: str) -> list[str]:
    """The tasks of a run that failed besides its own last one, first those that failed themselves."""
    ended = {name: str(state) for name, state in states.items() if name != own_task_id}
    return [name for name, state in ended.items() if state == "failed"] or [
        name for name, state in ended.items() if state == "upstream_failed"
    ]
