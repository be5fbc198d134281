"""PagerDuty: the Events API v2, through the connection of type pagerduty_events.

The connection's password is the integration key; its host, when set, is the API's address, for example
https://events.eu.pagerduty.com for the EU service region.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sebenza_ops.notify.errors import DeliveryError, retry_after_seconds
from sebenza_ops.notify.messages import RESOLVED
from sebenza_ops.notify.text import fit

if TYPE_CHECKING:
    from sebenza_ops.ledger import Message

TIMEOUT_SECONDS = 10
# https://developer.pagerduty.com/docs/send-alert-event: payload.summary
SUMMARY_LIMIT_CHARACTERS = 1024
# The whole event may have 512 KB; one detail of this size never comes near it.
DETAIL_LIMIT_CHARACTERS = 8000


def render(message: Message) -> dict[str, Any]:
    """Return the arguments of the hook's `send_event`: a trigger, or the resolution of an earlier one."""
    details = {key: fit(str(value), DETAIL_LIMIT_CHARACTERS) for key, value in message.details.items()}
    return {
        "action": "resolve" if message.kind == RESOLVED else "trigger",
        "dedup_key": message.dedup_key,
        "summary": fit(message.subject, SUMMARY_LIMIT_CHARACTERS),
        # Our three severities are among PagerDuty's four (critical, error, warning, info).
        "severity": message.severity,
        "source": message.environment,
        "component": message.dag_id,
        "class_type": message.kind,
        "custom_details": details,
        "links": [{"href": message.link, "text": "Open the run"}] if message.link else None,
    }


def send(message: Message) -> None:
    """Deliver a message. Raises DeliveryError."""
    import pagerduty

    from sebenza_ops.notify.pagerduty_hook import RegionalPagerdutyEventsHook

    hook = RegionalPagerdutyEventsHook(message.conn_id, timeout_seconds=TIMEOUT_SECONDS)
    try:
        hook.send_event(**render(message))
    except pagerduty.HttpError as error:
        response: Any = error.response
        raise DeliveryError(
            "pagerduty",
            f"connection {message.conn_id}: HTTP {response.status_code} {fit(response.text, 300)}",
            retry_after_seconds(response.headers.get("Retry-After")),
        ) from error
    except pagerduty.Error as error:
        raise DeliveryError("pagerduty", f"connection {message.conn_id}: {error} {error.__cause__ or ''}") from error
