"""Email, through the connection of type smtp."""

from __future__ import annotations

from html import escape
from smtplib import SMTPException
from typing import TYPE_CHECKING, Any

from sebenza_ops.notify.errors import DeliveryError
from sebenza_ops.notify.text import fit

if TYPE_CHECKING:
    from sebenza_ops.ledger import Message

# RFC 5322, 2.1.1: a line must not be longer than 998 characters; a readable subject is far shorter.
SUBJECT_LIMIT_CHARACTERS = 200
BODY_LIMIT_CHARACTERS = 100_000


def render(message: Message) -> dict[str, Any]:
    """Return the arguments of the hook's `send_email_smtp`."""
    link = f'<p><a href="{escape(message.link)}">Open the run</a></p>' if message.link else ""
    body = escape(fit(message.body, BODY_LIMIT_CHARACTERS))
    return {
        "to": message.channel.partition(":")[2],
        "subject": fit(message.subject, SUBJECT_LIMIT_CHARACTERS),
        "html_content": f'<pre style="white-space: pre-wrap">{body}</pre>{link}',
        "custom_headers": {"X-Sebenza-Ops-Dedup-Key": message.dedup_key, "X-Sebenza-Ops-Severity": message.severity},
    }


def send(message: Message) -> None:
    """Deliver a message. Raises DeliveryError."""
    from airflow.providers.common.compat.sdk import AirflowException
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    try:
        with SmtpHook(smtp_conn_id=message.conn_id) as hook:
            hook.send_email_smtp(**render(message))
    except (OSError, SMTPException, AirflowException) as error:
        raise DeliveryError("email", f"connection {message.conn_id}: {error}") from error
