"""Confs that Airflow takes and then stumbles over are refused before there is a run."""

from __future__ import annotations

import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.console.conf_guard import MAXIMUM_BYTES, MAXIMUM_DEPTH, ConfGuard, json_depth

RUNS = "/api/v2/dags/rollback.production/dagRuns"


def nested(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


async def application(scope, receive, send):
    """Says what it got."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def ask(method: str, path: str, body: bytes) -> httpx.Response:
    transport = httpx.ASGITransport(app=ConfGuard(application))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, content=body)


def answer(method: str, path: str, body: bytes) -> httpx.Response:
    import asyncio

    return asyncio.run(ask(method, path, body))


@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_the_depth_is_what_the_value_has(value):
    assert json_depth(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == depth_of(value)


@given(st.binary())
def test_any_bytes_have_a_depth(text):
    assert json_depth(text) >= 0


@pytest.mark.parametrize("levels", [0, 1, MAXIMUM_DEPTH - 1])
def test_what_a_procedure_takes_gets_through_unchanged(levels):
    body = json.dumps({"conf": nested(levels)}).encode()
    found = answer("POST", RUNS, body)
    assert (found.status_code, found.content) == (200, body)


@pytest.mark.parametrize("levels", [MAXIMUM_DEPTH, 200, 100_000])
def test_a_conf_that_is_too_deep_is_refused(levels):
    body = b'{"conf": ' + b"[" * levels + b"]" * levels + b"}"
    found = answer("POST", RUNS, body)
    assert found.status_code == 422
    assert "no run was made" in found.json()["detail"]


def test_a_request_that_is_too_large_is_refused():
    assert answer("POST", f"{RUNS}/", b'"' + b"x" * MAXIMUM_BYTES + b'"').status_code == 413


@pytest.mark.parametrize(("method", "path"), [("PATCH", RUNS), ("POST", "/api/v2/variables")])
def test_other_requests_are_left_alone(method, path):
    body = json.dumps(nested(MAXIMUM_DEPTH + 1)).encode()
    assert answer(method, path, body).content == body
