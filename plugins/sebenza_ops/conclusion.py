"""What a run says at its end, for people who follow it: a sentence, its plan if it only planned, what is to be done.

A procedure's last task returns the sentence (`execute` is declared to return `str`), or fails with it. What people need
besides is pushed beside it. `console.outcome` gathers it for `make run`, the demo and CI.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.standard.utils.skipmixin import SkipMixin
from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from sebenza_ops.changes import ChangeRun

# XCom keys beside the return value.
SENTENCE: Final = "sentence"
PLAN: Final = "plan_lines"
TO_DO: Final = "to_do_lines"


def say(context: Mapping[str, Any], sentence: str) -> None:
    """Keep the run's sentence where the task does not return: it skips itself, or fails without a ledger."""
    context["ti"].xcom_push(key=SENTENCE, value=sentence)


def say_to_do(context: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Keep what people must do now, the most urgent first, a line each."""
    context["ti"].xcom_push(key=TO_DO, value=list(lines))


class PlanOperator(BaseOperator, SkipMixin):
    """Base of an operator that plans: with the parameter `plan_only` a run ends with its plan, shown to people."""

    inherits_from_skipmixin = True

    def end_with_plan(self, context: Mapping[str, Any], run: ChangeRun, data: Mapping[str, Any], text: str) -> None:
        """Keep the plan, and skip all that would change something.

        Args:
            context: The task's context.
            run: The run.
            data: What the task returns: a skip ends it at once, and it would be lost.
            text: The plan in lines, for people.
        """
        run.note("plan only: nothing is changed")
        context["ti"].xcom_push(key="return_value", value=dict(data))
        context["ti"].xcom_push(key=PLAN, value=text.splitlines())
        self.skip_changes(context)

    def skip_changes(self, context: Mapping[str, Any]) -> None:
        """Skip all later tasks but those that end the run. A skip ends this task at once."""
        later = self.get_flat_relatives(upstream=False)
        self.skip(ti=context["ti"], tasks=[task for task in later if not task.is_teardown])
