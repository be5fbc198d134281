"""PagerDuty's Events API v2: what it accepts, and the incidents that follow.

https://developer.pagerduty.com/docs/send-alert-event and
https://developer.pagerduty.com/docs/send-change-event.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

ROUTING_KEY_CHARACTERS = 32
MAX_DEDUP_KEY_CHARACTERS = 255
MAX_SUMMARY_CHARACTERS = 1_024
MAX_EVENT_BYTES = 512 * 1024
EVENT_ACTIONS = ("trigger", "acknowledge", "resolve")
SEVERITIES = ("critical", "error", "warning", "info")


def event_errors(event: Any) -> list[str]:
    """What is wrong with an alert event, in the order of its fields; empty when it is valid."""
    if not isinstance(event, dict):
        return ["event must be a JSON object"]
    errors = _routing_key_errors(event)
    action = event.get("event_action")
    if action not in EVENT_ACTIONS:
        errors.append(f"'event_action' is missing or invalid (should be one of {', '.join(EVENT_ACTIONS)})")
    dedup_key = event.get("dedup_key")
    if action in ("acknowledge", "resolve") and not dedup_key:
        errors.append(f"'dedup_key' is missing or blank (required to {action})")
    if dedup_key is not None and (not isinstance(dedup_key, str) or len(dedup_key) > MAX_DEDUP_KEY_CHARACTERS):
        errors.append(f"'dedup_key' is invalid (should be a string of up to {MAX_DEDUP_KEY_CHARACTERS} characters)")
    if action == "trigger":
        errors += _payload_errors(event.get("payload"))
    errors += _list_errors(event, "links", "href") + _list_errors(event, "images", "src")
    return errors


def change_event_errors(event: Any) -> list[str]:
    """What is wrong with a change event; empty when it is valid."""
    if not isinstance(event, dict):
        return ["event must be a JSON object"]
    errors = _routing_key_errors(event)
    payload = event.get("payload")
    if not isinstance(payload, dict):
        return [*errors, "'payload' is missing or blank"]
    return errors + _summary_errors(payload) + _list_errors(event, "links", "href")


def _routing_key_errors(event: dict[str, Any]) -> list[str]:
    key = event.get("routing_key")
    if not isinstance(key, str) or not key:
        return ["'routing_key' is missing or blank"]
    if len(key) != ROUTING_KEY_CHARACTERS:
        return [f"Length of 'routing_key' is incorrect (should be {ROUTING_KEY_CHARACTERS} characters)"]
    return []


def _summary_errors(payload: dict[str, Any]) -> list[str]:
    summary = payload.get("summary")
    if not isinstance(summary, str) or not summary:
        return ["'payload.summary' is missing or blank"]
    if len(summary) > MAX_SUMMARY_CHARACTERS:
        return [f"'payload.summary' is too long (maximum is {MAX_SUMMARY_CHARACTERS} characters)"]
    return []


def _payload_errors(payload: Any) -> list[str]:
    if not isinstance(payload, dict):
        return ["'payload' is missing or blank"]
    errors = _summary_errors(payload)
    if not isinstance(payload.get("source"), str) or not payload["source"]:
        errors.append("'payload.source' is missing or blank")
    if payload.get("severity") not in SEVERITIES:
        errors.append(f"'payload.severity' is invalid (must be one of the following: {', '.join(SEVERITIES)})")
    timestamp = payload.get("timestamp")
    if timestamp is not None and not _is_iso8601(timestamp):
        errors.append("'payload.timestamp' is invalid (should be ISO 8601)")
    errors += [
        f"'payload.{field}' is invalid (should be a string)"
        for field in ("component", "group", "class")
        if payload.get(field) is not None and not isinstance(payload[field], str)
    ]
    return errors


def _is_iso8601(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _list_errors(event: dict[str, Any], field: str, required: str) -> list[str]:
    items = event.get(field)
    if items is None:
        return []
    if not isinstance(items, list):
        return [f"'{field}' is invalid (should be a list)"]
    return [
        f"'{field}[{index}].{required}' is missing or blank"
        for index, item in enumerate(items)
        if not isinstance(item, dict) or not isinstance(item.get(required), str) or not item[required]
    ]


def incidents(messages: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The incidents that accepted alert events add up to, oldest first.

    As PagerDuty does: triggers with the key of an open incident join it, a trigger after the
    resolution opens a new one, and an acknowledgement or resolution of nothing is ignored.
    """
    opened: list[dict[str, Any]] = []
    current: dict[tuple[str, str], dict[str, Any]] = {}
    for message in messages:
        event = message["payload"]
        action = event.get("event_action")
        if action is None:
            continue  # a change event: it never opens an incident
        key = (event["routing_key"], message["dedup_key"])
        incident = current.get(key)
        if action == "trigger":
            if incident is None or incident["status"] == "resolved":
                incident = _new_incident(message)
                current[key] = incident
                opened.append(incident)
            incident["triggers"] += 1
        elif incident is not None and incident["status"] != "resolved":
            incident["status"] = f"{action}d"
            incident[f"{action}d_at"] = message["received_at"]
    return opened


def _new_incident(message: dict[str, Any]) -> dict[str, Any]:
    event = message["payload"]
    return {
        "dedup_key": message["dedup_key"],
        "routing_key": event["routing_key"],
        "status": "triggered",
        "summary": event["payload"]["summary"],
        "severity": event["payload"]["severity"],
        "source": event["payload"]["source"],
        "triggers": 0,
        "triggered_at": message["received_at"],
        "acknowledged_at": None,
        "resolved_at": None,
    }
