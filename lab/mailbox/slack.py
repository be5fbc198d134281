"""Slack's contract: what incoming webhooks and the Web API accept, and how they say no.

Limits and error names are Slack's:
https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks,
https://docs.slack.dev/reference/block-kit/blocks and
https://docs.slack.dev/reference/methods/chat.postMessage.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

MAX_BLOCKS = 50
MAX_ATTACHMENTS = 100
MAX_TEXT_CHARACTERS = 40_000
MAX_BLOCK_ID_CHARACTERS = 255
MAX_SECTION_TEXT_CHARACTERS = 3_000
MAX_SECTION_FIELDS = 10
MAX_FIELD_CHARACTERS = 2_000
MAX_HEADER_CHARACTERS = 150
MAX_CONTEXT_ELEMENTS = 10
MAX_ACTIONS_ELEMENTS = 25
MAX_BUTTON_TEXT_CHARACTERS = 75
MAX_URL_CHARACTERS = 3_000
MAX_ALT_TEXT_CHARACTERS = 2_000
MAX_MARKDOWN_CHARACTERS = 12_000
MAX_CHANNEL_NAME_CHARACTERS = 80
CHANNEL_NAME = re.compile(r"[a-z0-9_-]+")

# Blocks whose inside is not checked here: nothing in this project sends them.
UNCHECKED_BLOCKS = {"rich_text", "file", "video", "input", "table"}


class SlackRefusal(Exception):
    """Slack would not take this: `error` is its name for the reason, `detail` says where."""

    def __init__(self, error: str, detail: str = "") -> None:
        """Keep Slack's name for the error and what it is about."""
        super().__init__(f"{error}: {detail}" if detail else error)
        self.error = error
        self.detail = detail


def check_message(message: dict[str, Any]) -> None:
    """Raise SlackRefusal unless `message` is one that Slack would show."""
    text, blocks, attachments = (message.get(key) for key in ("text", "blocks", "attachments"))
    if text is not None and not isinstance(text, str):
        raise SlackRefusal("invalid_payload", "text must be a string")
    if not text and not blocks and not attachments:
        raise SlackRefusal("no_text")
    if text and len(text) > MAX_TEXT_CHARACTERS:
        raise SlackRefusal("msg_too_long", f"text has {len(text)} characters, {MAX_TEXT_CHARACTERS} allowed")
    if blocks is not None:
        check_blocks(blocks)
    if attachments is not None:
        _check_attachments(attachments)


def check_blocks(blocks: Any) -> None:
    """Raise SlackRefusal unless `blocks` is a list of valid layout blocks."""
    if not isinstance(blocks, list):
        raise SlackRefusal("invalid_blocks_format", "blocks must be a list")
    if len(blocks) > MAX_BLOCKS:
        raise SlackRefusal("invalid_blocks", f"no more than {MAX_BLOCKS} items allowed [blocks]")
    for index, block in enumerate(blocks):
        where = f"/blocks/{index}"
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise SlackRefusal("invalid_blocks", f"missing required field: type [{where}]")
        _length(block.get("block_id", "-"), MAX_BLOCK_ID_CHARACTERS, f"{where}/block_id")
        if block["type"] in UNCHECKED_BLOCKS:
            continue
        check = _BLOCK_CHECKS.get(block["type"])
        if check is None:
            raise SlackRefusal("invalid_blocks", f"unsupported type: {block['type']} [{where}]")
        check(block, where)


def _check_attachments(attachments: Any) -> None:
    if not isinstance(attachments, list) or not all(isinstance(item, dict) for item in attachments):
        raise SlackRefusal("invalid_attachments", "attachments must be a list of objects")
    if len(attachments) > MAX_ATTACHMENTS:
        raise SlackRefusal("too_many_attachments", f"{len(attachments)}, {MAX_ATTACHMENTS} allowed")
    for attachment in attachments:
        if "blocks" in attachment:
            check_blocks(attachment["blocks"])


def _length(value: Any, limit: int, where: str) -> None:
    if not isinstance(value, str) or not value:
        raise SlackRefusal("invalid_blocks", f"must be a string of at least 1 character [{where}]")
    if len(value) > limit:
        raise SlackRefusal("invalid_blocks", f"must be no more than {limit} characters [{where}]")


def _text(value: Any, limit: int, where: str, *, plain: bool = False) -> None:
    if not isinstance(value, dict):
        raise SlackRefusal("invalid_blocks", f"must be a text object [{where}]")
    allowed = {"plain_text"} if plain else {"plain_text", "mrkdwn"}
    if value.get("type") not in allowed:
        raise SlackRefusal("invalid_blocks", f"text type must be one of {sorted(allowed)} [{where}/type]")
    _length(value.get("text"), limit, f"{where}/text")


def _section(block: dict[str, Any], where: str) -> None:
    fields = block.get("fields")
    if "text" not in block and not fields:
        raise SlackRefusal("invalid_blocks", f"section needs text or fields [{where}]")
    if "text" in block:
        _text(block["text"], MAX_SECTION_TEXT_CHARACTERS, f"{where}/text")
    if fields is not None:
        _count(fields, MAX_SECTION_FIELDS, f"{where}/fields")
        for index, field in enumerate(fields):
            _text(field, MAX_FIELD_CHARACTERS, f"{where}/fields/{index}")
    if "accessory" in block:
        _element(block["accessory"], f"{where}/accessory")


def _count(items: Any, limit: int, where: str) -> None:
    if not isinstance(items, list) or not 1 <= len(items) <= limit:
        raise SlackRefusal("invalid_blocks", f"must be a list of 1 to {limit} items [{where}]")


def _header(block: dict[str, Any], where: str) -> None:
    _text(block.get("text"), MAX_HEADER_CHARACTERS, f"{where}/text", plain=True)


def _context(block: dict[str, Any], where: str) -> None:
    elements = block.get("elements")
    _count(elements, MAX_CONTEXT_ELEMENTS, f"{where}/elements")
    for index, element in enumerate(elements or []):
        place = f"{where}/elements/{index}"
        if isinstance(element, dict) and element.get("type") == "image":
            _image(element, place)
        else:
            _text(element, MAX_SECTION_TEXT_CHARACTERS, place)


def _actions(block: dict[str, Any], where: str) -> None:
    elements = block.get("elements")
    _count(elements, MAX_ACTIONS_ELEMENTS, f"{where}/elements")
    for index, element in enumerate(elements or []):
        _element(element, f"{where}/elements/{index}")


def _element(element: Any, where: str) -> None:
    if not isinstance(element, dict) or not isinstance(element.get("type"), str):
        raise SlackRefusal("invalid_blocks", f"missing required field: type [{where}]")
    if element["type"] == "image":
        _image(element, where)
    if element["type"] == "button":
        _text(element.get("text"), MAX_BUTTON_TEXT_CHARACTERS, f"{where}/text", plain=True)
        if "url" in element:
            _length(element["url"], MAX_URL_CHARACTERS, f"{where}/url")


def _image(block: dict[str, Any], where: str) -> None:
    if "slack_file" not in block:
        _length(block.get("image_url"), MAX_URL_CHARACTERS, f"{where}/image_url")
    _length(block.get("alt_text"), MAX_ALT_TEXT_CHARACTERS, f"{where}/alt_text")


def _markdown(block: dict[str, Any], where: str) -> None:
    _length(block.get("text"), MAX_MARKDOWN_CHARACTERS, f"{where}/text")


def _divider(block: dict[str, Any], where: str) -> None:
    """A divider has nothing that could be wrong."""


_BLOCK_CHECKS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "section": _section,
    "header": _header,
    "context": _context,
    "actions": _actions,
    "image": _image,
    "markdown": _markdown,
    "divider": _divider,
}


def readable_text(message: dict[str, Any]) -> str:
    """Everything in a message that people would read, for searching: text, blocks, attachments."""
    parts: list[str] = []

    def collect(value: Any, key: str = "") -> None:
        if isinstance(value, str) and key in {"text", "title", "fallback", "pretext", "value", "url", "title_link"}:
            parts.append(value)
        elif isinstance(value, dict):
            for name, inner in value.items():
                collect(inner, name)
        elif isinstance(value, list):
            for inner in value:
                collect(inner, key)

    collect({key: message.get(key) for key in ("text", "blocks", "attachments")})
    return "\n".join(part for part in parts if part)


def check_channel_name(name: Any) -> str:
    """The name of a channel to create, or SlackRefusal with the error of conversations.create."""
    if not isinstance(name, str) or not name:
        raise SlackRefusal("invalid_name_required")
    if len(name) > MAX_CHANNEL_NAME_CHARACTERS:
        raise SlackRefusal("invalid_name_maxlength", name)
    if not CHANNEL_NAME.fullmatch(name):
        raise SlackRefusal("invalid_name_specials", name)
    return name


def channel_id(name: str) -> str:
    """A stable Slack-like id (C and ten characters) for the channel of that name."""
    return "C" + hashlib.sha256(name.removeprefix("#").encode()).hexdigest()[:10].upper()
