"""Slack: an incoming webhook, through the connection of type slackwebhook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sebenza_ops.notify.errors import DeliveryError, retry_after_seconds
from sebenza_ops.notify.text import fit

if TYPE_CHECKING:
    from sebenza_ops.ledger import Message

TIMEOUT_SECONDS = 10
# https://docs.slack.dev/reference/block-kit/blocks/header-block
HEADER_LIMIT_CHARACTERS = 150
# https://docs.slack.dev/reference/block-kit/blocks/section-block
SECTION_LIMIT_CHARACTERS = 3000
# https://docs.slack.dev/reference/methods/chat.postMessage#truncating
TEXT_LIMIT_CHARACTERS = 4000


def render(message: Message) -> dict[str, Any]:
    """Return the webhook's payload: a header, the body, the link; `text` is what notifications show."""
    blocks: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": fit(message.subject, HEADER_LIMIT_CHARACTERS)}},
        _section(fit(_escape(message.body), SECTION_LIMIT_CHARACTERS)),
    ]
    if message.link:
        blocks.append(_section(f"<{message.link}|Open the run>"))
    return {"text": fit(_escape(f"{message.subject}\n{message.body}"), TEXT_LIMIT_CHARACTERS), "blocks": blocks}


def send(message: Message) -> None:
    """Deliver a message. Raises DeliveryError."""
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

    # No retry handlers: the outbox retries, and a rate limit is waited for there.
    hook = SlackWebhookHook(slack_webhook_conn_id=message.conn_id, timeout=TIMEOUT_SECONDS, retry_handlers=[])
    try:
        response = hook.client.send_dict(render(message))
    except OSError as error:
        raise DeliveryError("slack", f"connection {message.conn_id}: {error}") from error
    if response.status_code != 200:
        raise DeliveryError(
            "slack",
            f"connection {message.conn_id}: HTTP {response.status_code} {fit(response.body, 200)}",
            retry_after_seconds(response.headers.get("Retry-After")),
        )


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def _escape(text: str) -> str:
    # https://docs.slack.dev/messaging/formatting-message-text#escaping
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
