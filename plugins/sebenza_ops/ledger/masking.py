"""Keeping secrets out of the ledger.

The rule is that no caller passes one; this is the net below it. Masking rather than refusing keeps a
deployment's bookkeeping from failing in the middle of a change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"(pass(word|wd|phrase)?|secret|token|private_?key|access_?key|api_?key|authorization|credentials?"
    r"|integration_?key|routing_?key)$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)", re.IGNORECASE)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_SLACK_WEBHOOK = re.compile(r"(?P<before>https?://[^\s/]+/services/)[A-Za-z0-9/_-]+")
_ASSIGNMENT = re.compile(
    r"(?P<before>\b(?:password|passwd|secret|api[_-]?key|access[_-]?key|private[_-]?key|authorization)\b"
    r"['\"]?\s*[=:]\s*['\"]?(?:(?:bearer|basic)\s+)?)[^\s'\",;&}]+",
    re.IGNORECASE,
)


def mask_text(text: str) -> str:
    """Return the text with passwords in URLs and assignments, private keys and webhook paths masked."""
    masked = _PRIVATE_KEY.sub(MASK, text)
    masked = _URL_PASSWORD.sub(rf"\g<before>{MASK}", masked)
    masked = _SLACK_WEBHOOK.sub(rf"\g<before>{MASK}", masked)
    return _ASSIGNMENT.sub(rf"\g<before>{MASK}", masked)


def mask_value(value: Any) -> Any:
    """Return a JSON value with every secret inside it masked.

    Only text counts as a secret under a telling key: a fencing token is a number and stays.
    """
    if isinstance(value, Mapping):
        return {
            str(key): MASK if isinstance(item, str) and item and _SECRET_KEY.search(str(key)) else mask_value(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_value(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_object(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with every secret inside it masked."""
    masked: dict[str, Any] = mask_value(value)
    return masked
