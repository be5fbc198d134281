"""Slack's Web API as far as the procedures use it: messages, channels, invitations.

https://docs.slack.dev/reference/methods
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lab.mailbox import slack

TEAM_ID = "T0SEBENZA0"
BOT_USER_ID = "U0SEBENZA0"
BOT_ID = "B0SEBENZA0"

Arguments = dict[str, Any]
# The answer's fields beside ok, and the record to keep (None when nothing was posted).
Outcome = tuple[dict[str, Any], dict[str, Any] | None]


class Workspace:
    """One Slack workspace: its channels and the messages that can be updated.

    A channel that is named exists: the workspace has whatever channels the notifications
    are configured for. Ids must be ones that this workspace gave out.
    """

    def __init__(self) -> None:
        """An empty workspace."""
        self._channels: dict[str, dict[str, Any]] = {}
        self._messages: dict[tuple[str, str], dict[str, Any]] = {}
        self._last_ts_us = 0
        self._methods: dict[str, Callable[[Arguments], Outcome]] = {
            "api.test": lambda arguments: ({"args": arguments}, None),
            "auth.test": self._auth_test,
            "chat.postMessage": self._post_message,
            "chat.update": self._update,
            "conversations.create": self._create_channel,
            "conversations.invite": self._invite,
            "conversations.setTopic": self._set_topic,
            "conversations.archive": self._archive,
        }

    def call(self, method: str, authorization: str | None, arguments: Arguments) -> Outcome:
        """Call a method as its HTTP request would; raises SlackRefusal with Slack's error name."""
        handler = self._methods.get(method)
        if handler is None:
            raise slack.SlackRefusal("unknown_method", method)
        token = (authorization or "").removeprefix("Bearer ").strip() or str(arguments.pop("token", ""))
        if method != "api.test":
            if not token:
                raise slack.SlackRefusal("not_authed")
            if not token.startswith("xox"):
                raise slack.SlackRefusal("invalid_auth", "a token starts with xox")
        return handler(arguments)

    def _ts(self) -> str:
        self._last_ts_us = max(self._last_ts_us + 1, time.time_ns() // 1000)
        return f"{self._last_ts_us // 1_000_000}.{self._last_ts_us % 1_000_000:06d}"

    def _channel(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, str) or not value:
            raise slack.SlackRefusal("channel_not_found", "no channel given")
        name = value.removeprefix("#")
        identifier = value if value in self._channels else slack.channel_id(name)
        if identifier not in self._channels:
            if not slack.CHANNEL_NAME.fullmatch(name):
                raise slack.SlackRefusal("channel_not_found", value)
            self._channels[identifier] = self._channel_object(name)
        channel = self._channels[identifier]
        if channel["is_archived"]:
            raise slack.SlackRefusal("is_archived", value)
        return channel

    def _channel_object(self, name: str) -> dict[str, Any]:
        return {
            "id": slack.channel_id(name),
            "name": name,
            "name_normalized": name,
            "is_channel": True,
            "is_private": False,
            "is_archived": False,
            "is_member": True,
            "created": int(time.time()),
            "creator": BOT_USER_ID,
            "topic": {"value": "", "creator": "", "last_set": 0},
            "purpose": {"value": "", "creator": "", "last_set": 0},
        }

    def _auth_test(self, arguments: Arguments) -> Outcome:
        return {
            "url": "https://sebenza.slack.com/",
            "team": "Sebenza",
            "user": "sebenza-ops",
            "team_id": TEAM_ID,
            "user_id": BOT_USER_ID,
            "bot_id": BOT_ID,
        }, None

    def _post_message(self, arguments: Arguments) -> Outcome:
        channel = self._channel(arguments.get("channel"))
        slack.check_message(arguments)
        ts = self._ts()
        message: dict[str, Any] = {
            "type": "message",
            "subtype": "bot_message",
            "bot_id": BOT_ID,
            "username": arguments.get("username", "sebenza-ops"),
            "ts": ts,
            "text": arguments.get("text", ""),
        }
        for key in ("blocks", "attachments", "thread_ts"):
            if key in arguments:
                message[key] = arguments[key]
        self._messages[channel["id"], ts] = message
        return {"channel": channel["id"], "ts": ts, "message": message}, _record(channel, ts, arguments)

    def _update(self, arguments: Arguments) -> Outcome:
        channel = self._channel(arguments.get("channel"))
        ts = str(arguments.get("ts", ""))
        message = self._messages.get((channel["id"], ts))
        if message is None:
            raise slack.SlackRefusal("message_not_found", f"{channel['id']} {ts}")
        slack.check_message(arguments)
        for key in ("text", "blocks", "attachments"):
            if key in arguments:
                message[key] = arguments[key]
        answer = {"channel": channel["id"], "ts": ts, "text": message["text"], "message": message}
        return answer, _record(channel, ts, arguments)

    def _create_channel(self, arguments: Arguments) -> Outcome:
        name = slack.check_channel_name(arguments.get("name"))
        if slack.channel_id(name) in self._channels:
            raise slack.SlackRefusal("name_taken", name)
        channel = self._channel(name)
        channel["is_private"] = str(arguments.get("is_private", False)).lower() == "true"
        return {"channel": channel}, {"slack_channel": name, "text": "", "payload": arguments}

    def _invite(self, arguments: Arguments) -> Outcome:
        channel = self._channel(arguments.get("channel"))
        users = [user for user in str(arguments.get("users", "")).split(",") if user]
        if not users:
            raise slack.SlackRefusal("no_user")
        unknown = [user for user in users if not user.startswith(("U", "W"))]
        if unknown:
            raise slack.SlackRefusal("user_not_found", ",".join(unknown))
        return {"channel": channel}, {"slack_channel": channel["name"], "text": "", "payload": arguments}

    def _set_topic(self, arguments: Arguments) -> Outcome:
        channel = self._channel(arguments.get("channel"))
        topic = str(arguments.get("topic", ""))
        if len(topic) > 250:  # https://docs.slack.dev/reference/methods/conversations.setTopic
            raise slack.SlackRefusal("too_long", "topic")
        channel["topic"] = {"value": topic, "creator": BOT_USER_ID, "last_set": int(time.time())}
        return {"channel": channel}, {"slack_channel": channel["name"], "text": topic, "payload": arguments}

    def _archive(self, arguments: Arguments) -> Outcome:
        channel = self._channel(arguments.get("channel"))
        channel["is_archived"] = True
        return {}, {"slack_channel": channel["name"], "text": "", "payload": arguments}


def _record(channel: dict[str, Any], ts: str, arguments: Arguments) -> dict[str, Any]:
    return {
        "slack_channel": channel["name"],
        "slack_channel_id": channel["id"],
        "ts": ts,
        "text": slack.readable_text(arguments),
        "payload": arguments,
    }
