"""Refuses confs that Airflow takes and then stumbles over, before there is a run.

Airflow 3.3.2 accepts a conf of any depth over its API. When the run fails, its DAG processor gets the conf again as
JSON, and its parser gives up at about 200 levels: the DAG processor dies, and dies again at each start, as the request
stays in Airflow's database. No DAG is parsed from then on.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Far above what any procedure takes, which is one level.
MAXIMUM_DEPTH: Final = 32
MAXIMUM_BYTES: Final = 256 * 1024
# Requests that bring the conf of runs.
_PATHS: Final = ("/dagRuns", "/backfills")
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")
_QUOTE, _ESCAPE = b'"'[0], b"\\"[0]


def json_depth(text: bytes) -> int:
    """How deep the lists and objects of a JSON text are nested. Never recurses; says something of any bytes at all."""
    depth = deepest = 0
    is_text = is_escaped = False
    for byte in text:
        if is_text:
            is_text = is_escaped or byte != _QUOTE
            is_escaped = byte == _ESCAPE and not is_escaped
        elif byte == _QUOTE:
            is_text = True
        elif byte in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif byte in _CLOSING:
            depth -= 1
    return deepest


class ConfGuard:
    """ASGI middleware of Airflow's API server.

    Args:
        app: The application that it guards.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 413 or 422."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].rstrip("/").endswith(_PATHS):
            await self._app(scope, receive, send)
            return
        body = bytearray()
        more = True
        while more and len(body) <= MAXIMUM_BYTES:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = bool(message.get("more_body"))
        if len(body) > MAXIMUM_BYTES:
            await _refuse(send, 413, f"the request is larger than {MAXIMUM_BYTES} bytes; no run was made")
            return
        if json_depth(bytes(body)) > MAXIMUM_DEPTH:
            await _refuse(send, 422, f"conf is nested deeper than {MAXIMUM_DEPTH} levels; no run was made")
            return
        told = False

        async def again() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, again, send)


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
