"""The console inside Airflow's UI, as a person meets it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

from sebenza_ops.evidence.facts import TimelineEntry, record, utc_now
from tests.console.conftest import Server
from tests.console.samples import DAG_ID, ROLLED_BACK_RUN, RUNNING_RUN

pytestmark = [pytest.mark.browser, pytest.mark.integration, pytest.mark.slow]

PATIENCE_MILLISECONDS = 30_000


@pytest.fixture
def person(server: Server, browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, base_url=server.url)
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    context.add_cookies([{"name": "_token", "value": server.token("thandi"), "url": server.url}])
    with server.client("thandi") as client:
        run = {"logical_date": None, "dag_run_id": RUNNING_RUN}
        assert client.post(f"/api/v2/dags/{DAG_ID}/dagRuns", json=run).status_code in (200, 409)
    yield context
    context.close()


def test_a_running_deployment_is_watched_from_its_run(server: Server, person: BrowserContext) -> None:
    page = person.new_page()
    page.goto(f"/dags/{DAG_ID}/runs/{quote(RUNNING_RUN)}")
    page.get_by_role("link", name="Evidence").click()
    report = page.frame_locator("iframe[title=Evidence]")
    expect(report.locator(".verdict .word")).to_have_text("In progress", timeout=PATIENCE_MILLISECONDS)
    text = "Judged once more, just for the one who watches"
    record(server.ledger, DAG_ID, RUNNING_RUN, TimelineEntry(at=utc_now(), text=text))
    expect(report.locator(".verdict .sentence")).to_have_text(text, timeout=PATIENCE_MILLISECONDS)
    expect(report.locator("#live")).to_contain_text("Live: refreshed at")


def test_the_overview_leads_to_evidence_and_to_the_run(person: BrowserContext) -> None:
    page = person.new_page()
    page.goto("/")
    page.get_by_role("link", name="Sebenza").click()
    console = page.frame_locator("iframe[title=Sebenza]")
    console.locator("tr", has_text="v1.1.0-late-5xx").get_by_role("link", name="evidence").click()
    expect(console.locator(".verdict .word")).to_have_text("Rolled back", timeout=PATIENCE_MILLISECONDS)
    console.get_by_role("link", name="All environments").click()
    expect(console.locator("#production")).to_be_visible(timeout=PATIENCE_MILLISECONDS)
    console.locator("tr", has_text="In progress").get_by_role("link", name="run").click()
    page.wait_for_url(f"**/dags/{DAG_ID}/runs/{quote(RUNNING_RUN)}")
    expect(page.get_by_role("heading", name=RUNNING_RUN)).to_be_visible(timeout=PATIENCE_MILLISECONDS)


def test_the_page_follows_airflows_switch_to_dark(person: BrowserContext) -> None:
    person.add_init_script("localStorage.setItem('theme', 'dark')")
    page = person.new_page()
    page.emulate_media(color_scheme="light")
    page.goto("/plugin/sebenza")
    body = page.frame_locator("iframe[title=Sebenza]").locator("body")
    expect(body).to_have_css("background-color", "rgb(20, 24, 31)", timeout=PATIENCE_MILLISECONDS)


@pytest.mark.parametrize("path", ["/sebenza/", f"/sebenza/evidence/{DAG_ID}/{quote(ROLLED_BACK_RUN)}"])
def test_nothing_overflows_on_a_phone(person: BrowserContext, path: str) -> None:
    page = person.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
