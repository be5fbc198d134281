"""Who may change an environment, as operators: freezes, and leases that are stuck."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from sebenza_ops.conclusion import say

if TYPE_CHECKING:
    from airflow.sdk import Context

MAXIMUM_FREEZE = timedelta(days=90)


def freeze_end(text: str, now: datetime) -> datetime:
    """The end of a freeze as a moment in UTC. Raises ValueError, naming the field."""
    try:
        end = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"until: {text!r} is no moment; expected for example 2026-12-24T16:00:00+02:00") from error
    if end.tzinfo is None:
        raise ValueError(f"until: {text!r} has no time zone; add +00:00 for UTC")
    if end <= now:
        raise ValueError(f"until: {text!r} is over; now it is {now.isoformat(timespec='seconds')}")
    if end > now + MAXIMUM_FREEZE:
        raise ValueError(f"until: {text!r} is more than {MAXIMUM_FREEZE.days} days away; freeze again when it is near")
    return end.astimezone(UTC)


class LeaseOperator(BaseOperator):
    """Base: these change the ledger, and each may be tried again.

    Args:
        environment: Name of the environment in the inventory.
    """

    safe_to_retry = True
    ui_color = "#e3def2"

    def __init__(self, *, environment: str, **kwargs: Any) -> None:
        super().__init__(**{"retries": 2, "retry_delay": timedelta(seconds=2), **kwargs})
        self.environment = environment


class FreezeOperator(LeaseOperator):
    """Refuses changes of the environment until a given time. Parameters of the run: `until`, `reason`."""

    def execute(self, context: Context) -> str:
        """Returns what is frozen until when, and who still changes it."""
        from sebenza_ops.changes import holder_of
        from sebenza_ops.ledger import Ledger

        ledger = Ledger.from_connection()
        try:
            end = freeze_end(str(context["params"]["until"]), datetime.now(UTC))
        except ValueError as error:
            raise AirflowFailException(f"refused, nothing was changed: {error}") from error
        freeze = ledger.leases.freeze(self.environment, holder_of(context), str(context["params"]["reason"]), end)
        lease = ledger.leases.current(self.environment)
        sentence = f"{self.environment} is frozen until {freeze.expires_at.isoformat()}: {freeze.reason}"
        if lease is not None:
            sentence += f". A run that began before goes on to its end: {lease.holder}, for {lease.purpose}"
        self.log.info("%s", sentence)
        return sentence


class LiftFreezeOperator(LeaseOperator):
    """Ends the environment's freeze before its time. Parameter of the run: `reason`."""

    def execute(self, context: Context) -> str:
        """Returns whose freeze is lifted; raises a skip when there is none."""
        from sebenza_ops.changes import holder_of
        from sebenza_ops.ledger import Ledger

        actor = holder_of(context).actor
        freeze = Ledger.from_connection().leases.lift_freeze(self.environment, str(context["params"]["reason"]), actor)
        if freeze is None:
            nothing = f"{self.environment} is not frozen: nothing to do"
            say(context, nothing)
            raise AirflowSkipException(nothing)
        sentence = f"{self.environment} may be changed again; it was frozen by {freeze.holder}"
        self.log.info("%s", sentence)
        return sentence


class ShowLeaseOperator(LeaseOperator):
    """Shows who holds the environment's lease and what that run had done; changes nothing."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Returns `token` and `text`. Raises a skip when nobody holds the lease."""
        from sebenza_ops.changes import ChangeRun
        from sebenza_ops.deployment.stuck_lease import show_lease

        found = show_lease(ChangeRun.from_context(context, self.environment))
        if found is None:
            nothing = f"nobody holds the lease of {self.environment}: nothing to hand back"
            say(context, nothing)
            raise AirflowSkipException(nothing)
        lease, text = found
        self.log.info("%s", text)
        return {"token": lease.token, "text": text}


class HandBackLeaseOperator(LeaseOperator):
    """Ends a stuck lease for its holder, and makes the hosts refuse what that run still sends.

    Args:
        token: The fencing token of the lease that was shown.
        approved_by: Who decided.
    """

    template_fields = ("token", "approved_by")

    def __init__(self, *, token: Any, approved_by: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.token = token
        self.approved_by = approved_by

    def execute(self, context: Context) -> str:
        """Returns what was done, in words."""
        from sebenza_ops.changes import ChangeRun
        from sebenza_ops.deployment.stuck_lease import LeaseChangedError, hand_back

        run = ChangeRun.from_context(context, self.environment)
        try:
            done = hand_back(run, int(self.token), str(context["params"]["reason"]), self.approved_by)
        except LeaseChangedError as error:
            raise AirflowFailException(str(error)) from error
        run.note(done, "warning" if "NOT told" in done else "success")
        return done
