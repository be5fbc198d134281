"""The tasks of a procedure, played one after the other without Airflow around them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import Holder, Ledger


class Tasks:
    """One run's tasks; what one leaves the next one gets.

    Args:
        environment: The environment that they find.
        ledger: The ledger that they find.
        holder: The run.
        params: Its parameters.
        patch: Lets them find these.
    """

    def __init__(
        self,
        environment: Environment,
        ledger: Ledger,
        holder: Holder,
        params: dict[str, Any],
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.holder, self._environment = holder, environment.name
        self.states: dict[str, str] = {}
        self.left: dict[str, Any] = {}

        def from_context(context: Any, name: str, **_: Any) -> ChangeRun:
            assert name == environment.name
            return ChangeRun(ledger, environment, holder, conf={})

        patch.setattr(ChangeRun, "from_context", from_context)
        task_instance = SimpleNamespace(
            xcom_push=lambda key, value: None,
            get_task_states=lambda dag_id, run_ids: {run_ids[0]: dict(self.states)},
        )
        self.context: Any = {
            "params": params,
            "ti": task_instance,
            "dag": SimpleNamespace(params=params),
            "dag_run": SimpleNamespace(conf={}),
            "run_id": holder.run_id,
        }

    def do(self, operator: type[Any], name: str, **arguments: Any) -> Any:
        """Execute one task; that it has failed is known to the last one."""
        task = operator(task_id=name, environment=self._environment, **arguments)
        try:
            self.left[name] = task.execute(self.context)
        except AirflowFailException:
            self.states[name] = "failed"
            raise
        self.states[name] = "success"
        return self.left[name]
