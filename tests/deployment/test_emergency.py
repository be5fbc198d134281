"""Rollbacks while something that a rollback likes to have is down: the ledger, object storage, Prometheus, Airflow."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from lab import paths
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from sebenza_ops.ledger import Holder, Ledger, Outcome, reconcile_pending
from sebenza_ops.ledger.journal import pending_journals
from tests.deployment.test_lease_procedures import ended
from tests.deployment.test_rollback_procedure import DEPLOY, REASON, ROLLBACK, deploy, forgive, live

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

LEDGER_DIR = paths.LAB_DIR / "ledger"
GONE = paths.LAB_DIR / "ledger.gone"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client
    estate.reset("staging")


@pytest.fixture
def ledger(operator: AirflowClient, estate: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The lab's ledger, with v1.0.0 in blue, v1.1.0 deployed to green, and nobody's lease."""
    monkeypatch.setenv("SEBENZA_JOURNAL", str(paths.JOURNAL_DIR))
    estate.reset("staging")
    found = Ledger.open(f"sqlite:///{LEDGER_DIR}/ledger.db")
    forgive(found)
    deploy(operator)
    yield found
    forgive(found)
    lease = found.leases.current("staging")
    if lease is not None:
        found.leases.release("staging", lease.token, "the test is over", "tests")


@contextmanager
def ledger_down() -> Iterator[None]:
    """The ledger's disk is not mounted."""
    LEDGER_DIR.rename(GONE)
    try:
        yield
    finally:
        assert not LEDGER_DIR.exists(), "somebody made a new ledger in place of the one that is down"
        GONE.rename(LEDGER_DIR)


def seen_token(estate: Any) -> int:
    return int((estate.root("staging") / "var/lib/sebenza/fence-staging").read_text().split()[0])


def test_with_the_ledger_down_traffic_goes_back_and_the_journal_is_carried_over(
    operator: AirflowClient, ledger: Ledger, estate: Any
) -> None:
    # A deployment that hangs holds the lease, and still will when the ledger is back.
    zombie = Holder(DEPLOY, f"manual__zombie_{time.time_ns()}", "sipho")
    token_before = seen_token(estate)
    held = ledger.leases.acquire("staging", zombie, "deploy v1.2.0", 3600, token_before)

    with ledger_down():
        refused, refused_tasks, _ = ended(operator, DEPLOY, {"version": "v1.0.0"})
        state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON})

    assert (refused, refused_tasks["acquire_lease"]) == ("failed", "failed")
    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert (tasks["start_release"], tasks["switch_back"]) == ("skipped", "success")
    assert operator.xcom(ROLLBACK, run_id, "switch_back") < 5
    on_hosts = seen_token(estate)
    assert on_hosts > token_before + 1000

    reconcile_pending(ledger)

    record = ledger.deployments.get(ROLLBACK, run_id)
    assert record.outcome is Outcome.SUCCEEDED
    left = ledger.releases.by_version("v1.1.0")
    assert left is not None
    bad = ledger.releases.bad("staging", left.release_id)
    assert bad is not None
    assert REASON in bad.reason
    assert ledger.evidence.entries(ROLLBACK, run_id)
    assert not [path for path in pending_journals() if path.name.startswith(ROLLBACK)]
    # Neither the one that was fenced off, nor a new run, gets a token that is lower than the hosts'.
    current = ledger.leases.current("staging")
    assert current is None, f"{current} is still believed; it had token {held.token}"
    assert ledger.leases.superseded_by("staging", zombie) is not None
    state, _, _ = ended(operator, DEPLOY, {"version": "v1.1.0", "bake_seconds": 5, "force_reason": "a test of tokens"})
    assert state == "success"
    assert seen_token(estate) > on_hosts


def test_with_ledger_storage_and_metrics_down_a_stopped_color_is_started_from_what_is_on_the_host(
    operator: AirflowClient, ledger: Ledger, faults: ModuleType
) -> None:
    assert ended(operator, "stop_idle_color.staging", {"color": "blue"})[0] == "success"
    with faults.kill("storage", "storage"), faults.metrics_absent(), ledger_down():
        state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON})
    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert (tasks["start_release"], tasks["await_healthy"]) == ("success", "success")
    reconcile_pending(ledger)
    kept = str([entry.payload for entry in ledger.evidence.entries(ROLLBACK, run_id)])
    assert "could not be stored" in kept
    good = ledger.releases.last_known_good("staging")
    assert good is not None
    assert good.release_id.startswith("v1.0.0-")


def test_with_storage_cut_off_a_warm_color_gets_traffic_back_at_once(
    operator: AirflowClient, ledger: Ledger, faults: ModuleType
) -> None:
    """A cable that is pulled, not a server that refuses: who waits for it, waits long."""
    with faults.cut("storage"), faults.metrics_absent():
        state, _, run_id = ended(operator, ROLLBACK, {"reason": REASON})
        seconds = operator.xcom(ROLLBACK, run_id, "switch_back")
    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert seconds < 5


def test_without_any_airflow_service_break_glass_goes_back_past_another_runs_lease(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    other = Holder(DEPLOY, f"manual__other_{time.time_ns()}", "sipho")
    ledger.leases.acquire("staging", other, "deploy v1.2.0", 3600, 0)
    airflow.down()
    try:
        done = break_glass()
    finally:
        airflow.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert live() == ("blue", "v1.0.0")
    taken = ledger.audit.entries(environment="staging", action="lease.taken_over")[0]
    assert taken.detail["former_holder"].startswith(DEPLOY)
    started = ledger.audit.entries(environment="staging", action="break_glass.started")[0]
    assert started.detail["reason"] == REASON
    print(done.stdout)


def test_beside_a_running_airflow_and_with_the_ledger_down_break_glass_shares_nothing_with_it(
    operator: AirflowClient, ledger: Ledger
) -> None:
    runs_before = len(operator.dag_runs(ROLLBACK, limit=100))
    with ledger_down():
        done = break_glass()
    assert done.returncode == 0, done.stdout + done.stderr
    assert live() == ("blue", "v1.0.0")
    assert "as the ledger is down" in done.stdout
    assert len(operator.dag_runs(ROLLBACK, limit=100)) == runs_before
    reconcile_pending(ledger)
    ended_entry = ledger.audit.entries(environment="staging", action="break_glass.ended")[0]
    assert ended_entry.detail["state"] == "success"
    assert ledger.deployments.recent("staging")[0].outcome is Outcome.SUCCEEDED


def break_glass() -> subprocess.CompletedProcess[str]:
    """What `make break-glass` runs, without a terminal."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "lab.break_glass", ROLLBACK, "--reason", REASON],
        cwd=paths.CHECKOUT,
        env=variables | {"PYTHONPATH": f"{paths.CHECKOUT}/plugins:{paths.CHECKOUT}"},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
