"""Fitting text into a channel's limits."""

from __future__ import annotations

_CUT = " … (cut)"


def fit(text: str, limit_characters: int) -> str:
    """Return the text, cut and marked as cut when it is longer than the limit."""
    if len(text) <= limit_characters:
        return text
    return text[: limit_characters - len(_CUT)].rstrip() + _CUT


def one_line(text: str) -> str:
    """Return the text without line breaks, which a subject may not have."""
    return " ".join(text.split())
