"""The installation of docker-compose.yaml without containers: who works for whom, and what a killed worker costs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from lab import checker
from lab.airflow.client import AirflowClient
from lab.airflow.components import components, worker_name
from lab.waiting import until
from sebenza_ops.ledger import Outcome
from tests.installation.conftest import QUEUES, Installation

pytestmark = [pytest.mark.celery, pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(900)]

DEPLOY = "deploy_blue_green.staging"
SWITCH = "switch_prove_and_bake"
NEXT_VERSION = "v1.1.0"


@pytest.fixture(scope="module")
def operator(installation: Installation) -> Iterator[AirflowClient]:
    with installation.airflow.client("operator") as client:
        yield client


def test_a_worker_killed_in_the_middle_of_a_deployment_is_replaced_and_the_deployment_converges(
    installation: Installation, operator: AirflowClient
) -> None:
    run_id = operator.trigger(DEPLOY, {"version": NEXT_VERSION})
    await_(lambda: _phase(installation, run_id) == "baking", 150, "the deployment bakes")

    worker = worker_name("staging")
    killed = _kill_with_children(installation.airflow.supervision.pid(worker))
    assert len(killed) > 2, "the worker had no task process"
    state = operator.await_state(DEPLOY, run_id, timeout_seconds=120)

    deployment = installation.ledger.deployments.find(DEPLOY, run_id)
    assert deployment is not None
    assert (state, deployment.outcome) == ("success", Outcome.SUCCEEDED), deployment.detail
    verdict = checker.check("staging")
    assert verdict.problems == []
    assert str(verdict.release).startswith(f"{NEXT_VERSION}-")
    tasks = {task.task_id: task for task in operator.task_instances(DEPLOY, run_id)}
    assert tasks[SWITCH].try_number == 2
    assert installation.airflow.supervision.pid(worker) not in killed
    lease = installation.ledger.leases.current("staging")
    # The stop of the old color, which a deployment plans, may have begun.
    assert lease is None or lease.holder.run_id != run_id


def test_every_component_runs(installation: Installation) -> None:
    wanted = {component.name for component in components(installation.airflow.settings)}

    assert {"worker-default", "worker-staging", "triggerer-default", "triggerer-staging"} < wanted
    states = installation.airflow.supervision.states()
    assert {name: state["statename"] for name, state in states.items()} == dict.fromkeys(wanted, "RUNNING")
    assert installation.report.import_errors == []


def test_a_credential_is_known_where_its_environment_is_worked_for_and_nowhere_else(
    installation: Installation, operator: AirflowClient
) -> None:
    run_id = operator.trigger("confined")

    # Both waits come back: each queue has a triggerer of its own.
    assert operator.await_state("confined", run_id, timeout_seconds=60) == "success"
    known = {queue: operator.xcom("confined", run_id, f"ask_{queue}") for queue in QUEUES}
    assert known == {"default": False, "staging": True}


def test_procedures_of_all_environments_are_worked_for_on_the_default_queue(
    installation: Installation, operator: AirflowClient
) -> None:
    def delivered() -> bool:
        return any(run["state"] == "success" for run in operator.dag_runs("deliver_notifications"))

    await_(delivered, 90, "deliver_notifications, which runs every minute, succeeds")


def _phase(installation: Installation, run_id: str) -> str | None:
    deployment = installation.ledger.deployments.find(DEPLOY, run_id)
    return str(deployment.progress.get("phase")) if deployment is not None else None


def _kill_with_children(pid: int) -> list[int]:
    """SIGKILL a worker with all that it has started, as a machine that loses its power."""
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    for member in family:
        os.kill(member.pid, signal.SIGSTOP)
    for member in family:
        member.kill()
    return [member.pid for member in family]


def await_(condition: Callable[[], bool], timeout_seconds: float, what: str) -> None:
    """Wait for a condition."""
    until(condition, what, timeout_seconds, poll_seconds=0.2, error=AssertionError)
