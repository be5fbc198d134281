"""The mailbox's HTTP side: the services' endpoints, and the desk where tests read and set faults."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lab.mailbox import pagerduty, slack
from lab.mailbox.slack_web_api import Workspace
from lab.mailbox.store import CHANNELS, Channel, Fault, Store

MAX_WAIT_SECONDS = 60.0


def create_app(store: Store) -> Starlette:
    """The ASGI application over `store`."""
    service, desk = Services(store), Desk(store)
    return Starlette(
        routes=[
            Route("/services/{team}/{integration}/{secret}", service.slack_webhook, methods=["POST"]),
            Route("/api/{method}", service.slack_web_api, methods=["GET", "POST"]),
            Route("/v2/enqueue", service.pagerduty_event, methods=["POST"]),
            Route("/v2/change/enqueue", service.pagerduty_change_event, methods=["POST"]),
            Route("/webhook", service.webhook, methods=["POST", "PUT"]),
            Route("/webhook/{rest:path}", service.webhook, methods=["POST", "PUT"]),
            Route("/messages", desk.messages, methods=["GET"]),
            Route("/messages", desk.clear, methods=["DELETE"]),
            Route("/refusals", desk.refusals, methods=["GET"]),
            Route("/incidents", desk.incidents, methods=["GET"]),
            Route("/faults", desk.faults, methods=["GET"]),
            Route("/faults", desk.add_fault, methods=["POST"]),
            Route("/faults", desk.clear_faults, methods=["DELETE"]),
            Route("/health", desk.health, methods=["GET"]),
        ]
    )


class Services:
    """The endpoints of the real services, as strict as they are."""

    def __init__(self, store: Store) -> None:
        """Keep what arrives in `store`."""
        self._store = store
        self._workspace = Workspace()

    async def slack_webhook(self, request: Request) -> Response:
        """An incoming webhook: `ok`, or Slack's one-word reason."""
        if fault := await self._meet_fault("slack", request):
            return PlainTextResponse("rate_limited" if fault.status == 429 else "rollup_error", **_answer(fault))
        raw = await request.body()
        try:
            message = _slack_webhook_message(request, raw)
            slack.check_message(message)
        except slack.SlackRefusal as refusal:
            self._store.refuse("slack", 400, str(refusal), {"path": request.url.path, "body": _shown(raw)})
            return PlainTextResponse(refusal.error, status_code=400)
        await self._store.accept(
            "slack",
            {
                "path": request.url.path,
                "method": "incoming_webhook",
                "slack_channel": message.get("channel"),
                "text": slack.readable_text(message),
                "payload": message,
            },
        )
        return PlainTextResponse("ok")

    async def slack_web_api(self, request: Request) -> Response:
        """A Web API method: HTTP 200 with ok true or false, as Slack answers."""
        if fault := await self._meet_fault("slack", request):
            return JSONResponse({"ok": False, "error": _slack_fault_error(fault)}, **_answer(fault))
        method = request.path_params["method"]
        raw = await request.body()
        try:
            arguments = await _slack_arguments(request, raw)
            answer, record = self._workspace.call(method, request.headers.get("authorization"), arguments)
        except slack.SlackRefusal as refusal:
            self._store.refuse("slack", 200, str(refusal), {"path": request.url.path, "body": _shown(raw)})
            return JSONResponse(
                {"ok": False, "error": refusal.error, "response_metadata": {"messages": [str(refusal)]}}
            )
        if record is not None:
            await self._store.accept("slack", {"path": request.url.path, "method": method, **record})
        return JSONResponse({"ok": True, **answer})

    async def pagerduty_event(self, request: Request) -> Response:
        """An alert event of the Events API v2."""
        return await self._pagerduty(request, pagerduty.event_errors, "Event processed")

    async def pagerduty_change_event(self, request: Request) -> Response:
        """A change event of the Events API v2."""
        return await self._pagerduty(request, pagerduty.change_event_errors, "Change event processed")

    async def _pagerduty(self, request: Request, errors_of: Callable[[Any], list[str]], accepted: str) -> Response:
        if fault := await self._meet_fault("pagerduty", request):
            status = "throttle exceeded" if fault.status == 429 else "error"
            return JSONResponse({"status": status, "message": "Not processed", "errors": []}, **_answer(fault))
        raw = await request.body()
        try:
            event = json.loads(raw)
        except ValueError:
            event = None
        errors = errors_of(event)
        if len(raw) > pagerduty.MAX_EVENT_BYTES:
            errors.append(f"event is too large (maximum is {pagerduty.MAX_EVENT_BYTES} bytes)")
        if errors:
            self._store.refuse("pagerduty", 400, "; ".join(errors), {"path": request.url.path, "body": _shown(raw)})
            invalid = {"status": "invalid event", "message": "Event object is invalid", "errors": errors}
            return JSONResponse(invalid, status_code=400)
        dedup_key = event.get("dedup_key") or uuid.uuid4().hex
        payload = event.get("payload") or {}
        await self._store.accept(
            "pagerduty",
            {
                "path": request.url.path,
                "event_action": event.get("event_action"),
                "dedup_key": dedup_key,
                "severity": payload.get("severity"),
                "text": payload.get("summary") or "",
                "payload": event,
            },
        )
        answer = {"status": "success", "message": accepted}
        if request.url.path == "/v2/enqueue":
            answer["dedup_key"] = dedup_key
        return JSONResponse(answer, status_code=202)

    async def webhook(self, request: Request) -> Response:
        """Anything posted below /webhook; a JSON body is kept as JSON, any other as text."""
        if fault := await self._meet_fault("webhook", request):
            return PlainTextResponse("fault on purpose", **_answer(fault))
        raw = (await request.body()).decode(errors="replace")
        try:
            payload = json.loads(raw)
        except ValueError:
            payload = raw
        headers = {name: value for name, value in request.headers.items() if name != "authorization"}
        await self._store.accept(
            "webhook", {"path": request.url.path, "headers": headers, "text": raw, "payload": payload}
        )
        return JSONResponse({"status": "ok"})

    async def _meet_fault(self, channel: Channel, request: Request) -> Fault | None:
        fault = self._store.take_fault(channel)
        if fault is None:
            return None
        body = _shown(await request.body())
        if fault.delay_seconds:
            await asyncio.sleep(fault.delay_seconds)  # the fault is the delay
        if fault.status == 200:
            return None  # late, but right
        self._store.refuse(channel, fault.status, "fault on purpose", {"path": request.url.path, "body": body})
        return fault


class Desk:
    """Where tests and people read what arrived and order faults."""

    def __init__(self, store: Store) -> None:
        """Serve what `store` holds."""
        self._store = store

    async def messages(self, request: Request) -> Response:
        """Messages, with `channel`, `since`, `after_id`; `wait_seconds` waits for the first one."""
        channel, since, after_id = _selection(request)
        wait_seconds = min(float(request.query_params.get("wait_seconds", "0")), MAX_WAIT_SECONDS)
        found = self._store.messages(channel, since, after_id)
        if not found and wait_seconds > 0:
            found = await self._store.await_messages(channel, since, after_id, wait_seconds)
        return JSONResponse(found)

    async def refusals(self, request: Request) -> Response:
        """Requests that were answered with an error, and why."""
        return JSONResponse(self._store.refusals(*_selection(request)))

    async def incidents(self, request: Request) -> Response:
        """PagerDuty incidents; `dedup_key` selects."""
        found = pagerduty.incidents(self._store.messages("pagerduty", None, 0))
        key = request.query_params.get("dedup_key")
        return JSONResponse([incident for incident in found if key in (None, incident["dedup_key"])])

    async def clear(self, request: Request) -> Response:
        """Forget messages, refusals and faults."""
        return JSONResponse({"cleared": self._store.clear()})

    async def faults(self, request: Request) -> Response:
        """Faults that still wait."""
        return JSONResponse([asdict(fault) for fault in self._store.faults()])

    async def add_fault(self, request: Request) -> Response:
        """Answer the next `count` requests of `channel` with `status`, after `delay_seconds`."""
        try:
            wanted = await request.json()
            fault = Fault(
                channel=wanted["channel"],
                status=int(wanted["status"]),
                count=int(wanted.get("count", 1)),
                delay_seconds=float(wanted.get("delay_seconds", 0)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise HTTPException(400, f"a fault is {{channel, status, count, delay_seconds}}: {error!r}") from error
        if fault.channel not in CHANNELS or fault.count < 1:
            raise HTTPException(400, f"channel must be one of {CHANNELS}, count at least 1")
        self._store.add_fault(fault)
        return JSONResponse(asdict(fault), status_code=201)

    async def clear_faults(self, request: Request) -> Response:
        """Answer rightly again."""
        self._store.clear_faults()
        return Response(status_code=204)

    async def health(self, request: Request) -> Response:
        """The mailbox is up."""
        return JSONResponse({"status": "ok"})


def _answer(fault: Fault) -> dict[str, Any]:
    headers = {"Retry-After": "1"} if fault.status == 429 else {}
    return {"status_code": fault.status, "headers": headers}


def _slack_fault_error(fault: Fault) -> str:
    return "ratelimited" if fault.status == 429 else "internal_error"


def _shown(raw: bytes) -> str:
    return raw[:4096].decode(errors="replace")


def _selection(request: Request) -> tuple[str | None, datetime | None, int]:
    parameters = request.query_params
    channel = parameters.get("channel")
    if channel is not None and channel not in CHANNELS:
        raise HTTPException(400, f"channel must be one of {CHANNELS}")
    try:
        return channel, _time(parameters.get("since")), int(parameters.get("after_id", "0"))
    except ValueError as error:
        raise HTTPException(400, f"since is ISO 8601 or epoch seconds, after_id a number: {error}") from error


def _time(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        return datetime.fromtimestamp(float(value), UTC)
    except ValueError:
        parsed = datetime.fromisoformat(value.replace(" ", "+"))  # "+00:00" arrives unquoted as " 00:00"
        return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _slack_webhook_message(request: Request, raw: bytes) -> dict[str, Any]:
    if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raw = parse_qs(raw.decode(errors="replace")).get("payload", [""])[0].encode()
    try:
        message = json.loads(raw)
    except ValueError as error:
        raise slack.SlackRefusal("invalid_payload", str(error)) from error
    if not isinstance(message, dict):
        raise slack.SlackRefusal("invalid_payload", "not an object")
    return message


async def _slack_arguments(request: Request, raw: bytes) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("application/json"):
        try:
            body = json.loads(raw or b"{}")
        except ValueError as error:
            raise slack.SlackRefusal("invalid_json", str(error)) from error
        if not isinstance(body, dict):
            raise slack.SlackRefusal("json_not_object")
        return arguments | cast(dict[str, Any], body)
    arguments |= {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    for name in ("blocks", "attachments"):
        if isinstance(arguments.get(name), str):
            try:
                arguments[name] = json.loads(arguments[name])
            except ValueError as error:
                raise slack.SlackRefusal(f"invalid_{name}", str(error)) from error
    return arguments
