"""The switch of the primary in Airflow, on the lab's production: under load, of a dead host, of one that is back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest

from lab import addresses, checker, commit_writer, paths, postgres, supervision
from lab import estate as lab_estate
from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.commit_writer import CommitWriter
from lab.load.generator import LoadGenerator
from lab.secrets import lab_secrets
from lab.waiting import until
from sebenza_ops.ledger import Ledger
from tests.deployment.test_lease_procedures import ended

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

SWITCH = "switch_database_primary.production"
QUESTION, APPROVE = "approve_failover", "Switch the primary"
ENDPOINT = (addresses.address("dbendpoint"), addresses.POSTGRES_PORT)

MAXIMUM_PER_SECOND = 40


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client


@pytest.fixture
def ledger(operator: AirflowClient) -> Iterator[Ledger]:
    """The lab's ledger; afterwards nobody holds production, and its pair is a pair."""
    found = Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")
    yield found
    lease = found.leases.current("production")
    if lease is not None:
        found.leases.release("production", lease.token, "the test is over", "tests")
    postgres.settle_pair()
    commit_writer.drop(ENDPOINT, "postgres", lab_secrets().postgres_superuser)


def writer() -> CommitWriter:
    return CommitWriter(ENDPOINT, "postgres", lab_secrets().postgres_superuser)


def load(rate: float) -> LoadGenerator:
    balancers = {name: (addresses.address(name), addresses.HTTPS_PORT) for name in ("lb1", "lb2")}
    return LoadGenerator(load_balancers=balancers, ca_file=paths.CA_FILE, rate=rate, write_share=0.2)


def missing(client: CommitWriter, host: str) -> list[int]:
    return [each.number for each in client.missing((addresses.address(host), addresses.POSTGRES_PORT))]


def roles() -> dict[str, bool]:
    """Whether each server that answers takes writes, by itself."""
    found = {}
    for host in ("db1", "db2"):
        with contextlib.suppress(psycopg2.OperationalError), postgres.connect(host) as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            found[host] = not cursor.fetchone()[0]
    return found


def streams_to(primary: str, replica: str) -> bool:
    return postgres.streams(primary, f"{replica}_slot")


def asked(client: AirflowClient, conf: dict[str, Any]) -> str:
    run_id = client.trigger(SWITCH, conf)
    client.await_state(SWITCH, run_id, {"awaiting_input"}, task_id=QUESTION, timeout_seconds=120)
    return run_id


def answered(airflow: LocalAirflow, client: AirflowClient, run_id: str, option: str = APPROVE) -> str:
    with airflow.client("approver") as approver:
        approver.answer(SWITCH, run_id, QUESTION, [option], {"reason": "the host's console says that it is dead"})
    return client.await_state(SWITCH, run_id, timeout_seconds=240)


def test_a_planned_switch_under_load_loses_nothing(
    operator: AirflowClient, ledger: Ledger, rate_for: Callable[[float], float]
) -> None:
    rate = rate_for(MAXIMUM_PER_SECOND)
    old = postgres.primary_of_production()
    new = {"db1": "db2", "db2": "db1"}[old]
    state, tasks, _ = ended(operator, SWITCH, {"reason": "what would it do?", "plan_only": True})
    assert (state, tasks["switch_primary"]) == ("success", "skipped")
    assert roles()[old]

    with load(rate) as users, writer() as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        state, tasks, run_id = ended(operator, SWITCH, {"reason": "maintenance of the host"})
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 50, "it writes on")
        report = users.stop()

    assert state == "success", str(operator.logs(SWITCH, run_id, "switch_primary"))[-3000:]
    assert (tasks[QUESTION], tasks["rejoin_old_primary"], tasks["verify_switch"]) == ("skipped", "success", "success")
    assert roles() == {old: False, new: True}
    assert streams_to(new, old)
    assert missing(client, new) == []
    until(lambda: missing(client, old) == [], "the replica has everything too", 10)
    deployment = ledger.deployments.get(SWITCH, run_id)
    pause_ms = deployment.progress["database_switch"]["pause_ms"]
    print(
        f"\npause {pause_ms} ms, longest gap {client.longest_gap_seconds * 1000:.0f} ms, "
        f"{report.requests} requests, {report.failed} failed: {report.failed_requests[:3]}"
    )
    assert pause_ms > 0
    # The application waits 2 s for a connection: what came earlier in a longer pause gets an error.
    given_up = rate * max(0.0, pause_ms / 1000 - 2)
    assert report.failed <= report.requests * 0.02 + given_up
    assert f"{new} is the primary" in str(deployment.detail)
    assert deployment.evidence_url
    switched = ledger.audit.entries(environment="production", action="database.primary_switched")[0]
    assert (switched.subject, switched.detail["from"]) == (new, old)
    assert ledger.leases.current("production") is None
    assert checker.check("production").problems == []
    # Again and again: a second run goes back, and one that is cleared changes nothing more.
    assert ended(operator, SWITCH, {"reason": "back to where it was"})[0] == "success"
    assert roles()[old]


# `test_switch` kills a primary in each run, without Airflow.
@pytest.mark.long
def test_a_dead_primary_is_replaced_and_is_no_primary_when_it_is_back(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    old = postgres.primary_of_production()
    new = {"db1": "db2", "db2": "db1"}[old]
    with writer() as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        # All of the host at once: nobody can stop PostgreSQL there, or see its WAL.
        supervision.kill_host(old)
        run_id = asked(operator, {"kind": "unplanned", "reason": "the host does not answer"})
        body = str(operator.hitl_details(SWITCH, run_id, QUESTION)["body"])
        assert "can't be reached, so it can't be stopped" in body
        state = answered(airflow, operator, run_id)
        assert state == "success", str(operator.logs(SWITCH, run_id, "switch_primary"))[-3000:]
        now = len(client.acknowledged)
        until(lambda: len(client.acknowledged) > now + 50, "it writes on")
    deployment = ledger.deployments.get(SWITCH, run_id)
    assert "IS LEFT OUT" in str(deployment.detail)
    lost = missing(client, new)
    shown = deployment.plan["loss"]["seconds"] if deployment.plan else 0
    last_kept = max(
        each.at for each in client.acknowledged if each.number not in lost and each.at < client.errors[0][0]
    )
    late = [each for each in client.acknowledged if each.number in lost and each.at > last_kept + shown + 0.2]
    print(f"\nlost {len(lost)}, shown: {shown} s of commits")
    assert not late, "more was lost than was shown"

    # It comes back as the primary that it was: no client gets there, and a planned switch is refused.
    lab_estate.start_host(old)
    until(lambda: roles() == {old: True, new: True}, "it is back, a primary", 30)
    assert all(postgres.leads_to_production() == new for _ in range(5))
    state, tasks, again = ended(operator, SWITCH, {"reason": "go back to the first"})
    assert (state, tasks["plan_switch"]) == ("failed", "failed")
    assert "BOTH ARE PRIMARIES" in str(operator.logs(SWITCH, again, "plan_switch"))

    run_id = asked(operator, {"kind": "rejoin", "reason": "the host is back"})
    assert answered(airflow, operator, run_id) == "success", str(operator.logs(SWITCH, run_id, "rejoin_old_primary"))[
        -3000:
    ]
    assert roles() == {old: False, new: True}
    assert streams_to(new, old)
    until(lambda: missing(client, old) == lost, "both have the same", 10)
    assert ended(operator, SWITCH, {"reason": "back to where it was"})[0] == "success"


@pytest.mark.long
def test_a_killed_process_is_measured_and_rewound(
    operator: AirflowClient, airflow: LocalAirflow, ledger: Ledger
) -> None:
    old = postgres.primary_of_production()
    new = {"db1": "db2", "db2": "db1"}[old]
    with writer() as client:
        until(lambda: len(client.acknowledged) > 50, "it writes")
        supervision.kill_service(old, "postgresql")
        run_id = asked(operator, {"kind": "unplanned", "reason": "PostgreSQL does not start"})
        assert answered(airflow, operator, run_id) == "success", str(operator.logs(SWITCH, run_id, "switch_primary"))[
            -3000:
        ]
    deployment = ledger.deployments.get(SWITCH, run_id)
    assert deployment.plan is not None
    lost = missing(client, new)
    print(f"\nlost {len(lost)}, shown: {deployment.plan['loss']}; {deployment.progress['database_switch']}")
    assert len(lost) <= deployment.plan["loss"]["commits"]
    assert roles() == {old: False, new: True}
    assert streams_to(new, old)
    assert "rewound" in deployment.progress["database_switch"]["rejoined"]
    assert ended(operator, SWITCH, {"reason": "back to where it was"})[0] == "success"
