"""Rollbacks while something that a rollback likes to have is down: the ledger, object storage, Prometheus, Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import psutil
import pytest

from lab import paths
from lab.addresses import address
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.waiting import scaled
from sebenza_ops.ledger import Holder, Ledger, Outcome, reconcile_pending
from sebenza_ops.ledger.journal import pending_journals
from tests.deployment.test_lease_procedures import ended
from tests.deployment.test_rollback_procedure import DEPLOY, REASON, ROLLBACK, deploy, forgive, live

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]

LEDGER_DIR = paths.LAB_DIR / "ledger"
GONE = paths.LAB_DIR / "ledger.gone"


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """v1.1.0 was deployed beside v1.0.0: both colors stay warm, and each test goes back to the other one."""
    estate.reset("staging")
    forgive(lab_ledger())
    with airflow.client("operator") as client:
        deploy(client)
        yield client
    forgive(lab_ledger())
    estate.reset("staging")


@pytest.fixture
def ledger(operator: AirflowClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """The lab's ledger; nothing is bad in it, and nobody has the lease."""
    monkeypatch.setenv("SEBENZA_JOURNAL", str(paths.JOURNAL_DIR))
    found = lab_ledger()
    forgive(found)
    yield found
    lease = found.leases.current("staging")
    if lease is not None:
        found.leases.release("staging", lease.token, "the test is over", "tests")


def lab_ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{LEDGER_DIR}/ledger.db")


def go_to(operator: AirflowClient, version: str) -> None:
    """Make a version live by a rollback to it, unless it is."""
    if live()[1] != version:
        assert ended(operator, ROLLBACK, {"reason": REASON, "to": version, "mark_bad": False})[0] == "success"
    assert live()[1] == version


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
    go_to(operator, "v1.1.0")
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
    assert operator.xcom(ROLLBACK, run_id, "switch_back") > 0
    on_hosts = seen_token(estate)
    assert on_hosts > token_before + 1000

    reconcile_pending(ledger)

    assert ledger.deployments.get(ROLLBACK, run_id).outcome is Outcome.SUCCEEDED
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
    forgive(ledger)
    go_to(operator, "v1.1.0")
    assert seen_token(estate) > on_hosts


def test_with_ledger_storage_and_metrics_down_a_stopped_color_is_started_from_what_is_on_the_host(
    operator: AirflowClient, ledger: Ledger, faults: ModuleType
) -> None:
    go_to(operator, "v1.1.0")
    assert ended(operator, "stop_idle_color.staging", {"color": "blue"})[0] == "success"

    with faults.kill("storage", "rclone"), faults.metrics_absent(), ledger_down():
        state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON, "mark_bad": False})

    assert (state, live()) == ("success", ("blue", "v1.0.0"))
    assert tasks["start_release"] == "success"
    reconcile_pending(ledger)
    assert "could not be stored" in str([e.payload for e in ledger.evidence.entries(ROLLBACK, run_id)])
    good = ledger.releases.last_known_good("staging")
    assert good is not None
    assert good.release_id.startswith("v1.0.0-")


def test_with_storage_cut_off_a_warm_color_gets_traffic_at_once(
    operator: AirflowClient, ledger: Ledger, faults: ModuleType
) -> None:
    """A cable that is pulled, not a server that refuses: who waits for it, waits long."""
    target = "v1.1.0" if live()[1] == "v1.0.0" else "v1.0.0"
    with faults.cut("storage"), faults.metrics_absent(), watched_storage() as asked:
        state, tasks, run_id = ended(operator, ROLLBACK, {"reason": REASON, "to": target, "mark_bad": False})
    assert (state, live()[1]) == ("success", target)
    assert tasks["start_release"] == "skipped"
    by_id = {task.id: task.task_id for task in operator.task_instances(ROLLBACK, run_id)}
    waited = {task_id for id_, task_id in by_id.items() if any(id_ in title for title in asked)}
    assert waited, "nobody was seen waiting for the storage, not even who keeps the evidence: nothing was looked at"
    assert not waited & {"plan_rollback", "await_healthy", "switch_back"}, "traffic waits for the storage"


@contextmanager
def watched_storage() -> Iterator[set[str]]:
    """The titles of all processes that are seen waiting for an answer of the storage while the block runs."""
    titles: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for line in psutil.net_connections("tcp"):
                if line.status == psutil.CONN_SYN_SENT and line.raddr and line.raddr.ip == address("storage"):
                    with suppress(psutil.Error):
                        titles.add(" ".join(psutil.Process(line.pid).cmdline()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield titles
    finally:
        over.set()
        watcher.join()


def test_beside_a_running_airflow_and_with_the_ledger_down_break_glass_shares_nothing_with_it(
    operator: AirflowClient, ledger: Ledger
) -> None:
    target = "v1.1.0" if live()[1] == "v1.0.0" else "v1.0.0"
    runs_before = len(operator.dag_runs(ROLLBACK, limit=100))
    with ledger_down():
        done = break_glass(target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert live()[1] == target
    assert "as the ledger is down" in done.stdout
    assert len(operator.dag_runs(ROLLBACK, limit=100)) == runs_before
    reconcile_pending(ledger)
    ended_entry = ledger.audit.entries(environment="staging", action="break_glass.ended")[0]
    assert ended_entry.detail["state"] == "success"
    assert ledger.deployments.recent("staging")[0].outcome is Outcome.SUCCEEDED


def test_without_any_airflow_service_break_glass_goes_back_past_another_runs_lease(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    color, version = live()
    target, idle = "v1.1.0" if version == "v1.0.0" else "v1.0.0", "green" if color == "blue" else "blue"
    # It must start that color and await its health: everything that a procedure does works without Airflow.
    assert ended(operator, "stop_idle_color.staging", {"color": idle})[0] == "success"
    other = Holder(DEPLOY, f"manual__other_{time.time_ns()}", "sipho")
    ledger.leases.acquire("staging", other, "deploy v1.2.0", 3600, 0)
    airflow.down()
    try:
        done = break_glass(target)
    finally:
        airflow.up()
    assert done.returncode == 0, done.stdout + done.stderr
    assert live()[1] == target
    taken = ledger.audit.entries(environment="staging", action="lease.taken_over")[0]
    assert taken.detail["former_holder"].startswith(DEPLOY)
    started = ledger.audit.entries(environment="staging", action="break_glass.started")[0]
    assert started.detail["reason"] == REASON


def break_glass(target: str) -> subprocess.CompletedProcess[str]:
    """What `make break-glass` runs, without a terminal, on the lab."""
    conf = json.dumps({"to": target, "mark_bad": False})
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SEBENZA_BREAK"))}
    return subprocess.run(
        [sys.executable, "-m", "lab.break_glass", ROLLBACK, "--conf", conf, "--reason", REASON],
        cwd=paths.CHECKOUT,
        env=variables | {"PYTHONPATH": f"{paths.CHECKOUT}/plugins:{paths.CHECKOUT}"},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=scaled(300),
        check=False,
    )
