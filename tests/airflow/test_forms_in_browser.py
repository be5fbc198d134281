"""The forms by which operators start procedures, in the browser: with what is required they can be sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.waiting import until

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_MILLISECONDS = 30_000
DEPLOY = "deploy_blue_green.staging"
UNKNOWN = "v0.0.0-there-is-none"
TEXTS = {
    "target": "2026-03-29 15:30:00+02:00",
    "until": "2026-03-29T15:30:00+02:00",
    "finding_id": "1",
    "version": UNKNOWN,
}


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        until(lambda: DEPLOY in {dag["dag_id"] for dag in client.dags()}, "Airflow has read the DAGs", 120)
        yield client


@pytest.fixture
def person(operator: AirflowClient, browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1400, "height": 1300}, base_url=operator.url)
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    context.add_cookies([{"name": "_token", "value": operator.token(), "url": operator.url}])
    yield context
    context.close()


def kinds(parameter: dict[str, Any]) -> list[str]:
    found = parameter["schema"].get("type") or []
    return [found] if isinstance(found, str) else list(found)


def required(client: AirflowClient, dag_id: str) -> dict[str, dict[str, Any]]:
    """The parameters that a person must fill in."""
    found = client.dag_details(dag_id)["params"] or {}
    return {name: each for name, each in found.items() if each["value"] is None and "null" not in kinds(each)}


def form(person: BrowserContext, dag_id: str) -> Locator:
    page = person.new_page()
    page.goto(f"/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").first.click()
    return page.get_by_role("dialog")


def fill(shown: Locator, names: dict[str, dict[str, Any]]) -> None:
    for name in names:
        shown.locator(f"#element_{name}").fill(TEXTS.get(name, "a test fills this in"))


@pytest.mark.long
def test_every_form_can_be_sent_with_what_is_required(operator: AirflowClient, person: BrowserContext) -> None:
    looked_at = []
    for dag in operator.dags():
        dag_id = str(dag["dag_id"])
        wanted = required(operator, dag_id)
        # What is chosen from a list or a calendar is no text to fill in.
        is_chosen = any({"enum", "format"} & set(each["schema"]) for each in wanted.values())
        if not dag_id.endswith(".production") or is_chosen:
            continue
        shown = form(person, dag_id)
        fill(shown, wanted)
        button = shown.get_by_role("button", name="Trigger").last
        expect(button, f"the form of {dag_id} can't be sent").to_be_enabled()
        looked_at.append(dag_id)
        shown.page.close()
    assert len(looked_at) >= 12, looked_at


def test_a_form_that_is_sent_starts_a_run(operator: AirflowClient, person: BrowserContext) -> None:
    before = {run["dag_run_id"] for run in operator.dag_runs(DEPLOY)}
    shown = form(person, DEPLOY)
    fill(shown, required(operator, DEPLOY))
    shown.get_by_role("button", name="Trigger").last.click()
    until(lambda: {run["dag_run_id"] for run in operator.dag_runs(DEPLOY)} > before, "the run is there", 30)
    (run_id,) = {run["dag_run_id"] for run in operator.dag_runs(DEPLOY)} - before
    assert operator.await_state(DEPLOY, run_id, timeout_seconds=120) == "failed"
    states = {task.task_id: task.state for task in operator.task_instances(DEPLOY, run_id)}
    failed = next(name for name, state in states.items() if state == "failed")
    assert UNKNOWN in str(operator.logs(DEPLOY, run_id, failed)), states
