"""Escrow, drill, disaster recovery, failback and closing a finding, pressed as people press them: in Airflow's API."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import addresses, backups, commit_writer, faults, nameserver, paths, postgres, secondary_site
from lab import estate as lab_estate
from lab.airflow.client import AirflowClient
from lab.airflow.follow import failure_report
from lab.airflow.stack import LocalAirflow
from lab.commit_writer import CommitWriter
from lab.secrets import lab_secrets
from lab.site_faults import kill_site
from lab.waiting import until
from sebenza_ops.ledger import Ledger
from sebenza_ops.ledger.findings import OPENED
from tests.recovery.test_disaster_restores import copied
from tests.schedules import switched_on

pytestmark = [
    pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900),
]  # fmt: skip

ESCROW, DRILL = "escrow_credentials.production", "disaster_recovery_drill.production"
RECOVERY, FAILBACK = "disaster_recovery.production", "failback.production"
CLOSE = "close_finding.production"
REASON = "the primary site does not answer"
PORT = addresses.POSTGRES_PORT


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    """The lab with its secondary site; production is at the primary one afterwards."""
    secondary_site.turn_on()
    lab_estate.up(lab_estate.Progress())
    if secondary_site.is_active():
        estate.reset("production")
    with airflow.client("operator") as client:
        pressed = {ESCROW, DRILL, RECOVERY, FAILBACK, CLOSE}
        until(lambda: pressed <= {dag["dag_id"] for dag in client.dags()}, "Airflow knows the secondary site", 120)
        yield client
        for dag_id in (ESCROW, DRILL):
            client.set_paused(dag_id, True)
    faults.mend(wait_for_health=False)
    estate.reset("production")


@pytest.fixture(scope="module")
def approver(operator: AirflowClient, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("approver") as client:
        yield client


def ended(client: AirflowClient, dag_id: str, run_id: str, seconds: float = 400) -> None:
    state = client.await_state(dag_id, run_id, timeout_seconds=seconds)
    assert state == "success", "\n".join(failure_report(client, dag_id, run_id))


def asked(client: AirflowClient, dag_id: str, run_id: str, task_id: str, seconds: float = 240) -> str:
    """Wait for a question; what it says."""
    wanted = {"awaiting_input", "failed", "upstream_failed"}
    state = client.await_state(dag_id, run_id, wanted, task_id=task_id, timeout_seconds=seconds)
    assert state == "awaiting_input", "\n".join(failure_report(client, dag_id, run_id))
    return str(client.hitl_details(dag_id, run_id, task_id)["body"])


def writer(endpoint: str) -> CommitWriter:
    return CommitWriter((addresses.address(endpoint), PORT), "postgres", lab_secrets().postgres_superuser)


def ledger() -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


def drill(client: AirflowClient) -> str:
    """The first one is that of the schedule, which begins when it is switched on."""
    known = {run["dag_run_id"] for run in client.dag_runs(DRILL)}
    client.set_paused(DRILL, False)
    if known:
        return client.trigger(DRILL, {})
    until(lambda: bool(client.dag_runs(DRILL)), "the drill's schedule has begun", 60)
    return str(client.dag_runs(DRILL)[0]["dag_run_id"])


def test_the_escrow_is_sealed_and_a_drill_opens_the_backups_with_it(operator: AirflowClient) -> None:
    switched_on(operator, operator, ESCROW)
    ended(operator, ESCROW, operator.trigger(ESCROW, {}))
    backups.ensure_stanza("db1")
    done = backups.run(postgres.primary_of_production(), "--type=full", "backup", timeout_seconds=180)
    assert done.returncode == 0, done.stderr
    assert backups.run(postgres.primary_of_production(), "check").returncode == 0
    copied()
    run_id = drill(operator)
    ended(operator, DRILL, run_id)
    drilled = ledger().audit.entries(environment="production", action="disaster.drilled")[0].detail
    print(f"\ndrill: {drilled['rto_from_start_seconds']:.1f} s, {drilled['restored_bytes']} bytes")
    assert run_id in drilled["run"]
    assert secondary_site.streams()


def test_what_a_drill_has_found_is_open_until_an_approver_closes_it(
    operator: AirflowClient, approver: AirflowClient
) -> None:
    detail = {"run": f"{DRILL}/manual__1", "owner": "devops", "finding": "RPO: 4000 s, objective 3600 s: MISSED"}
    number = ledger().audit.append(OPENED, "scheduler", "production", "RPO", detail).id
    assert number in {each.id for each in ledger().findings.open_ones("production")}
    run_id = operator.trigger(CLOSE, {"finding_id": number, "done": "the line between the sites was doubled"})
    text = asked(operator, CLOSE, run_id, "decide")
    assert "RPO: 4000 s" in text
    assert "the line between the sites was doubled" in text
    approver.answer(CLOSE, run_id, "decide", ["Close it"])
    ended(operator, CLOSE, run_id)
    assert number not in {each.id for each in ledger().findings.open_ones("production")}
    again = operator.trigger(CLOSE, {"finding_id": number, "done": "once more, to be sure"})
    assert operator.await_state(CLOSE, again, timeout_seconds=120) == "failed"
    assert f"no open finding {number}" in str(operator.logs(CLOSE, again, "show_finding"))


def test_production_goes_to_the_secondary_site_and_comes_back_with_nothing_lost(
    operator: AirflowClient, approver: AirflowClient
) -> None:
    before = nameserver.ask(nameserver.RESOLVER, "app.sebenza.com")
    with writer("dbendpoint") as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        # Airflow stays, as one at the secondary site would; the ledger, the storage and all hosts are gone.
        kill_site("primary", airflow=False)
        killed_at = time.time()
        until(lambda: bool(client.errors), "nobody can write")
        client.stop()
    run_id = operator.trigger(RECOVERY, {"reason": REASON, "type": "failover"})
    text = asked(operator, RECOVERY, run_id, "approve_recovery")
    assert "db1, db2 can't be reached, so nothing can be stopped there" in text
    reason = {"reason": "the site's operator says that it burns"}
    approver.answer(RECOVERY, run_id, "approve_recovery", ["Recover at the secondary site"], reason)
    operator.await_state(RECOVERY, run_id, {"success", "failed"}, task_id="lead_users", timeout_seconds=300)
    print(f"\nusers are led to the secondary site {time.time() - killed_at:.1f} s after the kill")
    ended(operator, RECOVERY, run_id)
    states = {task.task_id: task.state for task in operator.task_instances(RECOVERY, run_id)}
    assert (states["restore_rest"], states["verify_rest"]) == ("skipped", "skipped")
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == [addresses.address("lb3")]
    lost = client.missing((addresses.address("db3"), PORT))
    print(f"lost {len(lost)} of {len(client.acknowledged)} commits")
    with postgres.connect("db3") as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        assert cursor.fetchone() == (False,)

    faults.mend(wait_for_health=False)
    back = operator.trigger(FAILBACK, {"reason": "the site is back and was watched for a while"})
    text = asked(operator, FAILBACK, back, "approve_failback")
    assert "Nothing is lost" in text
    with writer("dbendpoint2") as at_second:
        until(lambda: len(at_second.acknowledged) > 50, "it writes at the secondary site")
        approver.answer(FAILBACK, back, "approve_failback", ["Go back to the primary site"], {"reason": "all is well"})
        operator.await_state(FAILBACK, back, {"success", "failed"}, task_id="move_back", timeout_seconds=400)
        at_second.stop()
    ended(operator, FAILBACK, back)
    assert at_second.missing((addresses.address("dbendpoint"), PORT)) == []
    assert nameserver.ask(nameserver.RESOLVER, "app.sebenza.com") == before
    assert secondary_site.streams()
    commit_writer.drop((addresses.address("dbendpoint"), PORT), "postgres", lab_secrets().postgres_superuser)


def test_of_two_recoveries_at_once_the_second_is_refused_and_says_whose_the_first_is(
    operator: AirflowClient, approver: AirflowClient
) -> None:
    # Asked for although the primary answers: nothing is done before the approval, which does not come.
    first = operator.trigger(RECOVERY, {"reason": REASON, "type": "failover"})
    asked(operator, RECOVERY, first, "approve_recovery")
    second = operator.trigger(RECOVERY, {"reason": REASON, "type": "failover"})
    assert operator.await_state(RECOVERY, second, timeout_seconds=240) == "failed"
    log = str(operator.logs(RECOVERY, second, "assess"))
    assert "another disaster recovery of production is under way" in log
    assert first in log
    approver.answer(RECOVERY, first, "approve_recovery", ["Reject"])
    assert operator.await_state(RECOVERY, first, timeout_seconds=240) == "failed"
    assert secondary_site.streams()
