"""A webhook: one JSON document a message, posted to the address of an http connection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sebenza_ops.notify.errors import DeliveryError, retry_after_seconds
from sebenza_ops.notify.text import fit

if TYPE_CHECKING:
    from sebenza_ops.ledger import Message

TIMEOUT_SECONDS = 10


def render(message: Message) -> dict[str, Any]:
    """Return the document."""
    return {
        "kind": message.kind,
        "environment": message.environment,
        "severity": message.severity,
        "subject": message.subject,
        "body": message.body,
        "dag_id": message.dag_id,
        "run_id": message.run_id,
        "clear_number": message.clear_number,
        "dedup_key": message.dedup_key,
        "link": message.link,
        "details": dict(message.details),
    }


def send(message: Message) -> None:
    """Deliver a message. Raises DeliveryError."""
    from airflow.providers.http.hooks.http import HttpHook
    from requests import RequestException

    hook = HttpHook(method="POST", http_conn_id=message.conn_id)
    try:
        response = hook.run(
            data=json.dumps(render(message)),
            headers={"Content-Type": "application/json"},
            extra_options={"timeout": TIMEOUT_SECONDS, "check_response": False, "allow_redirects": False},
        )
    except RequestException as error:
        raise DeliveryError("webhook", f"connection {message.conn_id}: {error}") from error
    if not 200 <= response.status_code < 300:
        raise DeliveryError(
            "webhook",
            f"connection {message.conn_id}: HTTP {response.status_code} {fit(response.text, 200)}",
            retry_after_seconds(response.headers.get("Retry-After")),
        )
