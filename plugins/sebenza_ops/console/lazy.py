"""The console as Airflow mounts it: an ASGI application that is only built when somebody asks for a page.

Airflow imports every plugin in every process, each task included. FastAPI, the templates and the ledger are
therefore imported by the first request, which only the API server gets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class LazyConsole:
    """Builds the console on the first request and passes every request to it."""

    def __init__(self) -> None:
        self._app: Callable[[Scope, Receive, Send], Awaitable[None]] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if self._app is None:
            self._app = await asyncio.to_thread(_build)
        await self._app(scope, receive, send)


def _build() -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    from sebenza_ops.console.app import create_app

    return create_app()
