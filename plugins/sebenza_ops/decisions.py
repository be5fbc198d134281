"""Decisions of people: a task that asks, waits without a slot, and closes when nobody answers.

What Airflow's own operator leaves to its users, and its traps: a question that nobody answered must not count as
approved, a rejection must not look like a success, an answer that came at the wrong moment must not be lost, and the
answer belongs into the audit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import get_hitl_detail_content_detail, upsert_hitl_detail

from sebenza_ops.terminal import NoAnswerError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sebenza_ops.ledger import AuditEntry, Ledger
    from sebenza_ops.terminal import Terminal

# A task that is resumed at the moment it parks may be failed by a late report of its first process, even after it has
# read the answer: it is tried again, once for each time it parks.
RETRIES = 5
MINIMUM_REASON_LENGTH = 10
ASKED, APPROVED, REJECTED = "decision.asked", "decision.approved", "decision.rejected"


_terminal: Terminal | None = None


@contextmanager
def at_terminal(terminal: Terminal) -> Iterator[None]:
    """Within this, questions are asked at a terminal: for a procedure that is run in this process by a person there."""
    global _terminal
    before, _terminal = _terminal, terminal
    try:
        yield
    finally:
        _terminal = before


def same_person(name: str, other: str) -> bool:
    """Whether two names may be the same person's: a login, or an email address with that login."""
    one, two = name.strip().casefold(), other.strip().casefold()
    return bool(one) and (one == two or one.partition("@")[0] == two.partition("@")[0])


def refusal_of(name: str, excluded: Mapping[str, str]) -> str | None:
    """Why this person's approval does not count, or None.

    Args:
        name: Who has approved.
        excluded: People who may not, each with what they are ("requester", "author").
    """
    for person, what in excluded.items():
        if same_person(name, person):
            return f"{name} is the {what} of this change, and somebody else must approve it"
    return None


class DecisionRejectedError(Exception):
    """Somebody who may decide has said no; what was asked about is untouched."""


class DecisionMissingError(Exception):
    """Nobody has decided in time, which means no."""


class DecisionOutdatedError(Exception):
    """What people are shown is not what the question is about any more."""


class HumanDecisionOperator(HITLOperator):
    """Asks people whether to go on. Returns who approved, when and why; anything else fails the run, untried again.

    Args:
        environment: Name of the environment that the decision is about.
        subject: The question, in a line.
        body: What is needed to decide, in Markdown; a template.
        approve: The answer that goes on, in the words of the procedure.
        response_timeout: How long people have, from the first time it asks.
        ask_reason: The form has a field for the reason, and approving without one is not taken.
        emergency: Part of a procedure that goes on while the ledger is down; the answer is kept in its journal then.

    Where somebody runs the procedure at a terminal, without any Airflow service, it asks there (`at_terminal`).
    """

    safe_to_retry = True
    ui_color = "#f6dfc8"
    REJECT = "Reject"
    UNTOUCHED = "Nothing was changed."

    def __init__(
        self,
        *,
        environment: str,
        subject: str,
        body: str,
        approve: str = "Approve",
        response_timeout: timedelta,
        ask_reason: bool = False,
        emergency: bool = False,
        **kwargs: Any,
    ) -> None:
        if ask_reason:
            # No minimum in the schema: a default that violates it would end the task before it asks.
            kwargs["params"] = {
                "reason": Param("", type=["null", "string"], maxLength=500, description="Why; kept in the audit.")
            }
        super().__init__(
            **{"retries": RETRIES, "retry_delay": timedelta(0), **kwargs},
            subject=subject,
            body=body,
            options=[approve, self.REJECT],
            response_timeout=response_timeout,
        )
        self.environment = environment
        self.approve = approve
        self.ask_reason = ask_reason
        self.emergency = emergency

    def refusal(self, context: Context, name: str) -> str | None:
        """Why an approval by this person does not count, or None. The question then stays open for others."""
        return None

    def on_approval(self, context: Context, approval: dict[str, str]) -> None:
        """What else is done with an approval, before it is returned. It may be called again by a later try."""

    def execute(self, context: Context) -> Any:
        """Ask; or, tried again after an answer that Airflow lost, take that answer."""
        if _terminal is not None:
            return self._ask_at_terminal(context, _terminal)
        settled = self._settled(context)
        if settled is not None:
            self.log.info("%s answered an earlier try", settled["approved_by"])
            self.on_approval(context, settled)
            return settled
        is_open = self._open_question(context)
        if is_open and (event := self._answer_already_there(context)) is not None:
            self.log.info("The question was answered before this try")
            return self.execute_complete(context, event)
        self._tell(context)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        """Take the answer. Raises a failure that is not tried again for a rejection and for a missing answer."""
        if "error" in event:
            missing = DecisionMissingError(f"nobody has answered {self.subject!r} within {self.response_timeout}")
            raise AirflowFailException(f"{missing}. {self.UNTOUCHED}") from missing
        answer = super().execute_complete(context, event)
        user = answer["responded_by_user"] or {}
        name = str(user.get("name") or user.get("id") or "unknown")
        reason = str((answer["params_input"] or {}).get("reason") or "").strip()
        if answer["chosen_options"] != [self.approve]:
            self._write_audit(context, REJECTED, name, reason)
            raise self._rejection(name, reason)
        refusal = self.refusal(context, name)
        if refusal is None and self.ask_reason and len(reason) < MINIMUM_REASON_LENGTH:
            refusal = f"approving needs a reason of at least {MINIMUM_REASON_LENGTH} characters"
        if refusal is not None:
            self._write_audit(context, "decision.not_taken", name, refusal)
            self._ask_again(context, f"{name}'s approval is not taken: {refusal}")
        approved_at = answer["responded_at"].isoformat()
        self._write_audit(context, APPROVED, name, reason, approved_at=approved_at)
        self.log.info("%s has approved: %s", name, self.subject)
        approval = {"approved_by": name, "approved_at": approved_at, "reason": reason}
        self.on_approval(context, approval)
        return approval

    def _rejection(self, name: str, reason: str) -> AirflowFailException:
        rejected = DecisionRejectedError(f"{name} has rejected {self.subject!r}{f': {reason}' if reason else ''}")
        failure = AirflowFailException(f"{rejected}. {self.UNTOUCHED}")
        failure.__cause__ = rejected
        return failure

    def _ask_at_terminal(self, context: Context, terminal: Terminal) -> dict[str, str]:
        """Ask the person who runs the procedure. No answer, no terminal, or another word than the option means no."""
        person, closes_at = terminal.person, time.monotonic() + self._response_seconds()
        terminal.show(f"\n{self.subject}\n\n{self.body}\n")
        refusal, stated = self.refusal(context, person), ""
        try:
            if refusal is not None:
                terminal.show(f"{person}'s approval is not taken: {refusal}. Who approves it beside you?")
                stated = terminal.ask("Name: ", closes_at).strip()
                refusal = self.refusal(context, stated) if stated else "nobody was named"
            word = terminal.ask(f"Type {self.approve!r} to go on, anything else to end: ", closes_at).strip()
            approves = word == self.approve
            reason = terminal.ask("Why: ", closes_at).strip() if self.ask_reason and approves else ""
        except NoAnswerError as error:
            self._write_audit(context, "decision.missing", person, str(error), asked_at="terminal")
            missing = DecisionMissingError(f"nobody has answered {self.subject!r}: {error}")
            raise AirflowFailException(f"{missing}. Nothing was changed.") from missing
        name = stated or person
        # Who approves beside them is what the person at the terminal says: nobody has logged in.
        proof = {"asked_at": "terminal", "stated_by": person} if stated else {"asked_at": "terminal"}
        if approves and refusal is None and self.ask_reason and len(reason) < MINIMUM_REASON_LENGTH:
            refusal = f"approving needs a reason of at least {MINIMUM_REASON_LENGTH} characters"
        if not approves or refusal is not None:
            action = "decision.not_taken" if approves else REJECTED
            self._write_audit(context, action, name, refusal or reason, **proof)
            rejected = DecisionRejectedError(
                f"{name}'s approval of {self.subject!r} is not taken: {refusal}"
                if approves
                else f"{name} has rejected {self.subject!r}"
            )
            raise AirflowFailException(f"{rejected}. Nothing was changed.") from rejected
        self._write_audit(context, APPROVED, name, reason, **proof)
        approval = {"approved_by": name, "approved_at": datetime.now(UTC).isoformat(), "reason": reason}
        self.on_approval(context, approval)
        return approval

    def _response_seconds(self) -> float:
        return self.response_timeout.total_seconds() if self.response_timeout else 0.0

    def _ledger(self, context: Context) -> Ledger:
        from sebenza_ops.changes import holder_of, open_ledger

        return open_ledger(self.environment, holder_of(context), emergency=self.emergency)

    def _tell(self, context: Context) -> None:
        from sebenza_ops.changes import ChangeRun

        ChangeRun.from_context(context, self.environment, emergency=self.emergency).tell_question(self.subject)

    def _settled(self, context: Context) -> dict[str, str] | None:
        """The approval that an earlier try of this asking has taken, before Airflow failed that try all the same.

        Raises the failure of a rejection that it has taken. A cleared task asks anew.
        """
        for entry in self._audited(context, REJECTED):
            raise self._rejection(entry.actor, entry.detail["reason"])
        for entry in self._audited(context, APPROVED):
            detail = entry.detail
            return {
                "approved_by": entry.actor,
                "approved_at": detail["approved_at"],
                "reason": detail["reason"],
            }
        return None

    def _open_question(self, context: Context) -> bool:
        """Whether an earlier try of this asking has asked; if not, note that this one does.

        Airflow keeps a question's first text when its task is cleared: nobody may answer what they are not shown.
        """
        digest = hashlib.sha256(f"{self.subject}\n{self.body}".encode()).hexdigest()
        asked = [entry.detail for entry in self._audited(context, ASKED, any_asking=True)]
        if asked and digest not in {detail["text_sha256"] for detail in asked}:
            outdated = DecisionOutdatedError(f"{self.subject!r} was asked before in this run, with other facts")
            raise AirflowFailException(f"{outdated}, which are still shown. {self.UNTOUCHED} Start a new run.")
        if any(detail["asking"] == _asking(context) for detail in asked):
            return True
        self._write_audit(context, ASKED, None, "", text_sha256=digest)
        return False

    def _audited(self, context: Context, action: str, *, any_asking: bool = False) -> list[AuditEntry]:
        """What the audit has of this run's question, the newest first."""
        from sebenza_ops.changes import holder_of

        found = self._ledger(context).audit.entries(
            environment=self.environment, action=action, subject=str(holder_of(context))
        )
        own = [entry for entry in found if entry.detail.get("task") == self.task_id]
        return own if any_asking else [entry for entry in own if entry.detail.get("asking") == _asking(context)]

    def _ask_again(self, context: Context, why: str) -> None:
        """Park again, with the rest of the time that people have. Airflow keeps the first question's text."""
        self.log.warning("%s; the question is open again", why)
        asked_at = context["ti"].start_date or datetime.now(UTC)
        left = self.response_timeout - (datetime.now(UTC) - asked_at) if self.response_timeout else timedelta(0)
        if left <= timedelta(0):
            missing = DecisionMissingError(why)
            raise AirflowFailException(f"{missing}. No time is left for another answer. {self.UNTOUCHED}")
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            multiple=self.multiple,
            params=self.serialized_params,
            assigned_users=self.assigned_users,
        )
        raise TaskAwaitingInput(method_name="execute_complete", timeout=left)

    def _answer_already_there(self, context: Context) -> dict[str, Any] | None:
        try:
            detail = get_hitl_detail_content_detail(ti_id=context["ti"].id)
        except AirflowRuntimeError:
            # The try before died before it had asked.
            return None
        if not detail.response_received or not detail.chosen_options:
            return None
        user = detail.responded_by_user
        return {
            "chosen_options": list(detail.chosen_options),
            "params_input": dict(detail.params_input or {}),
            "responded_at": detail.responded_at or datetime.now(UTC),
            "responded_by_user": {"id": user.id, "name": user.name} if user is not None else None,
        }

    def _write_audit(self, context: Context, action: str, name: str | None, reason: str, **how: str) -> None:
        from sebenza_ops.changes import holder_of

        holder = holder_of(context)
        detail = {"question": self.subject, "task": self.task_id, "reason": reason, "asking": _asking(context), **how}
        self._ledger(context).audit.append(action, name or holder.actor, self.environment, str(holder), detail)


def _asking(context: Context) -> int:
    """Which asking of the question a try belongs to: tries share it, a cleared task begins another.

    It is the number of tries that the task may take, which Airflow raises when the task is cleared.
    """
    task_instance = context.get("ti")
    return task_instance.max_tries if task_instance is not None else 0
