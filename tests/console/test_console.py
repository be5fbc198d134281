"""The console inside Airflow's API server: who may see what, and what the pages say."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from tests.console.conftest import Server
from tests.console.samples import DAG_ID, FINISHED_RUN, ROLLED_BACK_RUN, RUNNING_RUN

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGES = ["/sebenza/", f"/sebenza/evidence/{DAG_ID}/{quote(ROLLED_BACK_RUN)}"]


@pytest.mark.parametrize("page", PAGES)
def test_without_a_login_nothing_is_shown(server: Server, page: str) -> None:
    with server.client() as client:
        answer = client.get(page)
    assert answer.status_code == 401
    assert "v1.1.0" not in answer.text


@pytest.mark.parametrize("page", PAGES)
def test_a_browser_without_a_login_is_told_where_to_log_in(server: Server, page: str) -> None:
    with server.client(html=True) as client:
        answer = client.get(page)
    assert answer.status_code == 401
    assert 'href="/api/v2/auth/login"' in answer.text


def test_a_forged_token_is_refused(server: Server) -> None:
    with server.client() as client:
        assert client.get(PAGES[0], headers={"Authorization": "Bearer forged"}).status_code in (401, 403)


def test_who_may_not_read_the_dag_gets_nothing(server: Server) -> None:
    with server.client("stranger") as client:
        assert client.get(PAGES[1]).status_code == 403
        overview = client.get(PAGES[0])
    assert overview.status_code == 200
    assert "production" not in overview.text
    assert "You may not read any DAG" in overview.text


def test_a_viewer_sees_the_overview(server: Server) -> None:
    with server.client("lerato") as client:
        answer = client.get("/sebenza/")
    assert answer.status_code == 200
    for expected in (
        "https://",
        "v1.1.0-late-5xx",
        "Rolled back",
        "deployment of v1.1.0, by thandi",
        "Loss: met",
        "20261122-003000F was restored and proven",
        "served after 32 s",
        "RPO: 4000 s, objective 3600 s: MISSED",
        "close_finding.production",
        "ledger recorded",
    ):
        assert expected in answer.text
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "SAMEORIGIN"


def test_evidence_is_drawn_from_the_ledger_when_nothing_is_stored(server: Server) -> None:
    with server.client("lerato") as client:
        answer = client.get(PAGES[1])
    assert answer.status_code == 200
    assert "v1.1.0 failed its bake with 8.1% errors" in answer.text
    assert "No stored report was found. This page was drawn from the ledger just now." in answer.text
    assert "Airflow has no record of this run" in answer.text
    assert answer.text.count("<script") == 1


def test_a_run_that_is_under_way_can_be_watched(server: Server) -> None:
    with server.client("thandi") as client:
        made = client.post(f"/api/v2/dags/{DAG_ID}/dagRuns", json={"logical_date": None, "dag_run_id": RUNNING_RUN})
        assert made.status_code in (200, 409), made.text
        answer = client.get(f"/sebenza/evidence/{DAG_ID}/{quote(RUNNING_RUN)}")
    assert answer.status_code == 200
    assert 'data-in-progress="true"' in answer.text
    assert "Bake of 300 s begins" in answer.text
    assert "traffic was moved to green" in answer.text
    assert "stored report" not in answer.text


@pytest.mark.parametrize("run_id", ["never", "..", "%2e%2e", "a b"])
def test_a_run_that_nobody_knows_is_not_found(server: Server, run_id: str) -> None:
    with server.client("thandi") as client:
        answer = client.get(f"/sebenza/evidence/{DAG_ID}/{quote(run_id)}")
    assert answer.status_code == 404


def test_the_stored_report_is_shown_when_there_is_one(server: Server) -> None:
    with server.client("lerato") as client:
        answer = client.get(f"/sebenza/evidence/{DAG_ID}/{quote(FINISHED_RUN)}")
    assert answer.status_code == 200
    assert "<main id='report'>Stored, über alles</main>" in answer.text
    assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_the_plugin_is_registered_without_errors(server: Server) -> None:
    with server.client("thandi") as client:
        (plugin,) = [
            found for found in client.get("/api/v2/plugins").json()["plugins"] if found["name"] == "sebenza_ops"
        ]
        errors = client.get("/api/v2/plugins/importErrors").json()
    assert errors["total_entries"] == 0
    assert "sebenza_ops.notify.listener" in plugin["listeners"]
    assert [(view["name"], view["destination"]) for view in plugin["external_views"]] == [
        ("Sebenza", "nav"),
        ("Evidence", "dag_run"),
    ]


@pytest.mark.parametrize("name", ["icon.svg", "console.js"])
def test_assets_are_served(server: Server, name: str) -> None:
    with server.client() as client:
        assert client.get(f"/sebenza/assets/{name}").status_code == 200
        assert client.get("/sebenza/assets/../app.py").status_code == 404
