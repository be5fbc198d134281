"""Decisions of people: a task that asks, waits without a slot, and closes when nobody answers.

What Airflow's own operator leaves to its users, and its traps: a question that nobody answered must not count as
approved, a rejection must not look like a success, and the answer belongs into the audit.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context

# A task that is resumed at the moment it parks may be failed by a late report of its first process: it is tried again.
RETRIES = 2


class DecisionRejectedError(Exception):
    """Somebody who may decide has said no; what was asked about is untouched."""


class DecisionMissingError(Exception):
    """Nobody has decided in time, which means no."""


class HumanDecisionOperator(HITLOperator):
    """Asks people whether to go on. Returns who approved, and when; anything else fails the run, untried again.

    Args:
        environment: Name of the environment that the decision is about.
        subject: The question, in a line.
        body: What is needed to decide, in Markdown; a template.
        approve: The answer that goes on, in the words of the procedure.
        response_timeout: How long people have.
    """

    safe_to_retry = True
    ui_color = "#f6dfc8"
    REJECT = "Reject"

    def __init__(
        self,
        *,
        environment: str,
        subject: str,
        body: str,
        approve: str = "Approve",
        response_timeout: timedelta,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            **{"retries": RETRIES, "retry_delay": timedelta(0), **kwargs},
            subject=subject,
            body=body,
            options=[approve, self.REJECT],
            response_timeout=response_timeout,
        )
        self.environment = environment
        self.approve = approve

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Take the answer. Raises a failure that is not tried again for a rejection and for a missing answer."""
        from sebenza_ops.changes import holder_of
        from sebenza_ops.ledger import Ledger

        if "error" in event:
            missing = DecisionMissingError(f"nobody has answered {self.subject!r} within {self.response_timeout}")
            raise AirflowFailException(f"{missing}. Nothing was changed.") from missing
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"] or {}
        name = str(user.get("name") or user.get("id") or "unknown")
        is_approved = answer["chosen_options"] == [self.approve]
        holder = holder_of(context)
        Ledger.from_connection().audit.append(
            "decision.approved" if is_approved else "decision.rejected",
            name,
            self.environment,
            str(holder),
            {"question": self.subject, "task": self.task_id},
        )
        if not is_approved:
            rejected = DecisionRejectedError(f"{name} has rejected {self.subject!r}")
            raise AirflowFailException(f"{rejected}. Nothing was changed.") from rejected
        self.log.info("%s has approved: %s", name, self.subject)
        return {"approved_by": name, "approved_at": answer["responded_at"].isoformat()}
