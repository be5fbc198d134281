"""Reads the mailbox, for tests and chaos runs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

from lab.mailbox.store import Channel
from lab.waiting import scaled

Message = dict[str, Any]


class MailboxError(Exception):
    """The mailbox could not be asked, or what was awaited did not come."""


class Mailbox:
    """A client of the mailbox at `base_url`, for example "http://127.77.0.83:8025"."""

    def __init__(self, base_url: str, request_timeout_seconds: float = 10.0) -> None:
        """Remember where the mailbox is; nothing is asked yet."""
        self._base_url = base_url.rstrip("/")
        self._request_timeout_seconds = request_timeout_seconds

    def messages(
        self, channel: Channel | None = None, since: datetime | None = None, after_id: int = 0
    ) -> list[Message]:
        """What arrived, oldest first: of one channel or all, after a time (UTC) or after a message id."""
        return self._listed("/messages", channel, since, after_id)

    def refusals(
        self, channel: Channel | None = None, since: datetime | None = None, after_id: int = 0
    ) -> list[Message]:
        """What was answered with an error, with `status` and `reason`."""
        return self._listed("/refusals", channel, since, after_id)

    def incidents(self, dedup_key: str | None = None) -> list[Message]:
        """PagerDuty incidents, oldest first; `status` is triggered, acknowledged or resolved."""
        query = urllib.parse.urlencode({"dedup_key": dedup_key} if dedup_key else {})
        return cast(list[Message], self._ask("GET", f"/incidents?{query}"))

    def await_message(
        self,
        predicate: Callable[[Message], bool],
        timeout_seconds: float,
        channel: Channel | None = None,
        since: datetime | None = None,
    ) -> Message:
        """The first message for which `predicate` holds, among those there and those to come.

        Raises MailboxError with what did arrive when there is none within `timeout_seconds`.
        """
        deadline = time.monotonic() + scaled(timeout_seconds)
        after_id, seen = 0, list[str]()
        while True:
            wait_seconds = max(0.0, min(5.0, deadline - time.monotonic()))
            for message in self._listed("/messages", channel, since, after_id, wait_seconds):
                if predicate(message):
                    return message
                after_id = message["id"]
                seen.append(f"{message['channel']}: {message.get('text', '')[:120]!r}")
            if time.monotonic() >= deadline:
                raise MailboxError(
                    f"no awaited message in {timeout_seconds} s; arrived instead: {'; '.join(seen) or 'nothing'}"
                )

    def clear(self) -> None:
        """Forget everything that arrived, and all faults."""
        self._ask("DELETE", "/messages")

    def fail_next(self, channel: Channel, status: int = 500, count: int = 1, delay_seconds: float = 0.0) -> None:
        """Answer the next `count` requests of a channel with `status`, after a delay."""
        fault = {"channel": channel, "status": status, "count": count, "delay_seconds": delay_seconds}
        self._ask("POST", "/faults", fault)

    def clear_faults(self) -> None:
        """Answer rightly again."""
        self._ask("DELETE", "/faults")

    def healthy(self) -> bool:
        """Whether the mailbox answers."""
        try:
            return bool(self._ask("GET", "/health") == {"status": "ok"})
        except MailboxError:
            return False

    def _listed(
        self, path: str, channel: Channel | None, since: datetime | None, after_id: int, wait_seconds: float = 0.0
    ) -> list[Message]:
        query: dict[str, str | int | float] = {"after_id": after_id, "wait_seconds": wait_seconds}
        if channel:
            query["channel"] = channel
        if since:
            query["since"] = since.astimezone(UTC).isoformat()
        return cast(list[Message], self._ask("GET", f"{path}?{urllib.parse.urlencode(query)}", wait=wait_seconds))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, wait: float = 0.0) -> Any:
        request = urllib.request.Request(
            self._base_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._request_timeout_seconds + wait) as response:
                raw = response.read()
        except urllib.error.HTTPError as error:
            raise MailboxError(f"{method} {path}: HTTP {error.code} {error.read().decode(errors='replace')}") from error
        except OSError as error:
            raise MailboxError(f"{method} {self._base_url}{path}: {error}; is the mailbox running?") from error
        return json.loads(raw) if raw else None
