"""The releases that are bad on purpose: each is bad in its own way, and only in that."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import httpx
import pytest

from lab import waiting
from lab.waiting import scaled
from tests.lab.application_fixtures import Color, Estate

FORWARDED = {"X-Forwarded-For": "192.0.2.1"}
GOES_BAD_AFTER_SECONDS = 5.0
CUSTOMS_SECONDS = 6.0

pytestmark = pytest.mark.integration


def test_crash_at_start_ends_at_once(app_estate: Estate) -> None:
    color = app_estate.color("v1.3.0-crash-at-start", "unused_1")
    color.start(until_healthy=False)
    assert color.process is not None
    assert color.process.wait(scaled(10)) == 1
    assert "telemetry-agent" in color.output.read_text()


def test_never_ready_lives_and_never_listens(app_estate: Estate) -> None:
    good = app_estate.migrated("v1.1.0")
    bad = app_estate.color("v1.3.1-never-ready", good.database, "green")
    bad.start(until_healthy=False)
    # The good one, started after it, is long ready while the bad one still does not listen.
    good.start()
    assert bad.process is not None
    assert bad.process.poll() is None
    assert not waiting.accepts_connections("127.0.0.1", bad.port)


def test_wrong_release_is_healthy_and_says_it_is_another(app_estate: Estate) -> None:
    color = app_estate.migrated("v1.3.4-wrong-release")
    color.start()
    response = color.client.get("/version")
    assert response.headers["X-Release"] == app_estate.releases.release_id("v1.1.0")
    assert response.json()["sha"] == app_estate.releases.shas["v1.1.0"]
    assert '"version": "v1.3.4-wrong-release"' in (color.release / "release.json").read_text()


def test_releases_tell_themselves_apart(app_estate: Estate) -> None:
    old = app_estate.migrated("v1.0.0")
    new = app_estate.color("v1.1.0", old.database, "green")
    assert new.run("migrate", "up").returncode == 0
    for color, version in ((old, "v1.0.0"), (new, "v1.1.0")):
        color.start()
        assert color.client.get("/version").json()["version"] == version
        invoices = color.client.get("/api/v1/invoices", headers={"Cache-Control": "no-cache"}).json()["invoices"]
        assert len(invoices) == 50


@pytest.mark.long
def test_late_5xx_and_slow_go_bad_five_seconds_after_the_first_customer(app_estate: Estate) -> None:
    failing = app_estate.migrated("v1.3.2-late-5xx")
    slow = app_estate.migrated("v1.3.3-slow")
    for color in (failing, slow):
        color.start()
    # A warm-up straight to the host is no customer.
    for color in (failing, slow):
        assert {color.client.get("/api/v1/auth/me").status_code for _ in range(20)} == {200}
    # Not before: what was answered within five seconds of the first customer's question was answered well.
    for color in (failing, slow):
        first_customer_at = time.monotonic()
        asked = ask(color, 50)
        assert {each.status for each in asked if each.at < first_customer_at + GOES_BAD_AFTER_SECONDS} <= {200}
    # Their clocks start when the first request reaches them, a little after ours.
    bad_at = time.monotonic() + GOES_BAD_AFTER_SECONDS
    waiting.until(lambda: time.monotonic() > bad_at, "the releases go bad")

    assert Counter(each.status for each in ask(failing, 200)) == {200: 184, 500: 16}

    def twelve_percent_wait() -> bool:
        asked = ask(slow, 50)
        assert {each.status for each in asked} == {200}
        waited = sum(each.seconds >= CUSTOMS_SECONDS for each in asked)
        # None is sooner than customs; on a busy machine others may be as late now and then.
        assert waited >= 5
        return waited <= 7

    waiting.until(twelve_percent_wait, "12 % of the requests wait for customs, and no others")
    for color in (failing, slow):
        waiting.until(partial(is_healthy_at_once, color), f"no health check of {color.release} waits")


def is_healthy_at_once(color: Color) -> bool:
    answers = [color.client.get("/health", headers=FORWARDED) for _ in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    return all(answer.elapsed.total_seconds() < CUSTOMS_SECONDS for answer in answers)


@dataclass(frozen=True)
class Asked:
    status: int
    seconds: float
    at: float


def ask(color: Color, count: int) -> list[Asked]:
    """Ask as a load balancer does, `count` times; when each was answered (monotonic)."""

    def once(_: int) -> Asked:
        response = client.get("/api/v1/auth/me", headers=FORWARDED)
        return Asked(response.status_code, response.elapsed.total_seconds(), time.monotonic())

    with httpx.Client(base_url=color.client.base_url, timeout=20) as client, ThreadPoolExecutor(10) as pool:
        return list(pool.map(once, range(count)))
