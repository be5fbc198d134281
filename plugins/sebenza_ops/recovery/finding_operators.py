"""Closing a finding of a drill or a recovery, as operators: shown, decided by an approver, closed in the audit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from sebenza_ops.decisions import HumanDecisionOperator
from sebenza_ops.procedures import refuse_unknown_conf

if TYPE_CHECKING:
    from airflow.sdk import Context


class FindingOperator(BaseOperator):
    """Base: these change the ledger alone, and each may be tried again.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#e3def2"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": 2, "retry_delay": timedelta(seconds=2), **kwargs})
        self.environment = environment


class ShowFindingOperator(FindingOperator):
    """Finds the finding, and shows it with what is said to be done. Parameters of the run: `finding_id`, `done`."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns what the question shows as `text`, and as `excluded` who may not answer it."""
        from sebenza_ops.changes import ChangeRun
        from sebenza_ops.ledger import RecordUnknown

        refuse_unknown_conf(context)
        run, params = ChangeRun.from_context(context, self.environment), context["params"]
        try:
            found = run.ledger.findings.find(self.environment, int(params["finding_id"]))
        except RecordUnknown as error:
            raise AirflowFailException(f"refused, nothing was changed: {error}") from error
        policy = run.environment.policies.approvals
        excluded = {run.holder.actor: "requester"} if policy is not None and policy.exclude_requester else {}
        text = (
            f"**{found.subject}** of {self.environment}, opened {found.at:%Y-%m-%d %H:%M} UTC by {found.run}, owner "
            f"{found.owner}:\n\n> {found.text}\n\nDone, by {run.holder.actor}: {' '.join(str(params['done']).split())}"
        )
        self.log.info("%s", text)
        return {"text": text, "excluded": excluded}


class ApproveClosingOperator(HumanDecisionOperator):
    """Asks an approver whether that mends it.

    Args:
        excluded: People who may not approve, each with what they are; a template that gives a dictionary.
    """

    template_fields = (*HumanDecisionOperator.template_fields, "excluded")

    def __init__(self, *, excluded: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.excluded = excluded

    def refusal(self, context: Context, name: str) -> str | None:
        """The requester may not approve, where the policy says so."""
        from sebenza_ops.decisions import refusal_of

        return refusal_of(name, dict((self.excluded or {}).get("excluded") or {}))


class CloseFindingOperator(FindingOperator):
    """Closes it in the audit, with what was done and who has approved that.

    Args:
        approved_by: Who decided; a template.
    """

    template_fields: Sequence[str] = ("approved_by",)

    def __init__(self, *, approved_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.approved_by = approved_by

    def execute(self, context: Context) -> str:
        """Returns what was done, in words."""
        from sebenza_ops.changes import holder_of
        from sebenza_ops.ledger import Ledger, RecordUnknown

        holder, params, ledger = holder_of(context), context["params"], Ledger.from_connection()
        number, done = int(params["finding_id"]), " ".join(str(params["done"]).split())
        try:
            was_open = ledger.findings.close(
                self.environment, number, done, holder.actor, str(holder), self.approved_by
            )
        except RecordUnknown as error:
            raise AirflowFailException(str(error)) from error
        return f"finding {number} {'is closed' if was_open else 'was closed already'}: {done}"
