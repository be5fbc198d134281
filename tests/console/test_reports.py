"""Which report the console shows when something it reads from is gone."""

from __future__ import annotations

import json

import pytest

from sebenza_ops.console.outcome import RunOutcome, conclude
from sebenza_ops.console.reports import open_storage, report_page
from sebenza_ops.console.runs import AirflowRun, TaskResult
from sebenza_ops.environments.inventory import load_inventory
from sebenza_ops.evidence.facts import utc_now
from sebenza_ops.ledger import Ledger, LedgerUnavailable
from tests.console.samples import DAG_ID, ROLLED_BACK_RUN, fill


def no_ledger() -> Ledger:
    raise LedgerUnavailable("the ledger can't be reached")


@pytest.fixture
def _storage_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on port 9.
    limits = {"retries": {"max_attempts": 0}, "connect_timeout": 2}
    extra = {"endpoint_url": "http://127.0.0.1:9", "region_name": "us-east-1", "config_kwargs": limits}
    connection = {"conn_type": "aws", "login": "x", "password": "x", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SEBENZA_OBJECT_STORE", json.dumps(connection))


def over(state: str = "failed") -> AirflowRun:
    return AirflowRun(DAG_ID, ROLLED_BACK_RUN, state, utc_now(), utc_now(), "thandi")


@pytest.mark.usefixtures("_storage_is_down")
def test_without_object_storage_the_ledger_is_shown_and_said_to_be(ledger: Ledger) -> None:
    fill(ledger)
    inventory = load_inventory()
    page = report_page(DAG_ID, ROLLED_BACK_RUN, over(), inventory, lambda: ledger, open_storage, utc_now())
    assert page is not None
    assert page.is_live
    assert "The stored report can&#39;t be read" in page.html
    assert "drawn from the ledger just now" in page.html
    assert "v1.1.0 failed its bake" in page.html


@pytest.mark.usefixtures("_storage_is_down")
def test_without_both_the_reader_is_told_about_the_ledger() -> None:
    with pytest.raises(LedgerUnavailable):
        report_page(DAG_ID, ROLLED_BACK_RUN, over(), load_inventory(), no_ledger, open_storage, utc_now())


def test_an_environment_that_is_gone_has_no_storage_but_still_a_ledger(ledger: Ledger) -> None:
    dag_id = "deploy_blue_green.moon"
    run = AirflowRun(dag_id, "r", "success", utc_now(), utc_now(), None)
    page = report_page(dag_id, "r", run, load_inventory(), lambda: ledger, open_storage, utc_now())
    assert page is not None
    assert "There is no usable environment &#39;moon&#39;" in page.html
    assert "Outcome not recorded" in page.html


def test_a_run_that_keeps_no_outcome_has_its_own_sentence(ledger: Ledger) -> None:
    dag_id = "freeze.moon"
    run = AirflowRun(dag_id, "r", "success", utc_now(), utc_now(), None)

    def conclusion(ended: AirflowRun) -> RunOutcome:
        return conclude(ended, [TaskResult("freeze", "return_value", "moon is frozen until noon")], lambda: ledger)

    page = report_page(dag_id, "r", run, load_inventory(), lambda: ledger, open_storage, utc_now(), conclusion)
    assert page is not None
    assert "moon is frozen until noon" in page.html
    assert "Outcome not recorded" not in page.html
