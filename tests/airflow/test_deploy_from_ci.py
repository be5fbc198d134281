"""The script for CI against a running Airflow: one run for one pipeline, whatever happens to either side."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.airflow.client import AirflowClient
from lab.airflow.stack import LocalAirflow
from tests.airflow.conftest import free_port
from tests.ci import script

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(300)]

DAG, SHA = "deploy_standard.sample", "0123456789abcdef0123456789abcdef01234567"
deploy = script.load()


@pytest.fixture
def variables(local: LocalAirflow) -> dict[str, str]:
    user = local.users()["ci"]
    return {
        "SEBENZA_AIRFLOW_URL": local.settings.url,
        "SEBENZA_AIRFLOW_PASSWORD": user.password,
        "SEBENZA_ENVIRONMENT": "sample",
        "SEBENZA_STRATEGY": "standard",
        "SEBENZA_SHA": SHA,
        "SEBENZA_VERSION": "v1.1.0",
        "SEBENZA_POLL": "0.5",
        "SEBENZA_PATIENCE": "120",
    }


@pytest.fixture
def pipeline(request: pytest.FixtureRequest) -> str:
    """A pipeline's id, another one for each test."""
    return f"{request.node.originalname}-{time.time_ns()}"


def runs_of(operator: AirflowClient, pipeline: str) -> list[dict[str, Any]]:
    return [run for run in operator.dag_runs(DAG, limit=100) if f"__{pipeline}__" in run["dag_run_id"]]


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the script prints up to the line with this text."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} was not printed:\n{seen}")


def test_a_deployment_is_followed_to_its_end(variables: dict[str, str], pipeline: str, operator: AirflowClient) -> None:
    code, output = script.run(["--pipeline-id", pipeline], variables)

    assert code == 0, output
    run_id = f"ci__{pipeline}__{SHA[:12]}"
    for expected in (
        f"{DAG}: started as {run_id}",
        operator.run_url(DAG, run_id),
        "deploy: success",
        f"{SHA[:12]} is live on sample",
        f"evidence: {operator.run_url(DAG, run_id)}/plugin/evidence",
    ):
        assert expected in output
    [run] = runs_of(operator, pipeline)
    assert (run["triggering_user_name"], run["conf"]) == ("ci", {"version": SHA})
    assert run["note"] == f"v1.1.0 by pipeline {pipeline}"


def test_the_same_pipeline_does_not_deploy_twice(
    variables: dict[str, str], pipeline: str, operator: AirflowClient
) -> None:
    started = [script.start(["--pipeline-id", pipeline], variables) for _ in range(3)]
    outcomes = [script.ended(process, variables) for process in started]
    again = script.run(["--pipeline-id", pipeline], variables)

    assert [code for code, _ in [*outcomes, again]] == [0, 0, 0, 0], outcomes
    assert sum(f"{DAG}: started as" in output for _, output in outcomes) == 1
    assert "it is followed" in again[1]
    assert len(runs_of(operator, pipeline)) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_job_leaves_the_run_going_and_the_next_one_follows_it(
    variables: dict[str, str], pipeline: str, operator: AirflowClient, number: signal.Signals
) -> None:
    arguments = ["--pipeline-id", pipeline, "--conf", '{"seconds": 6}']
    process = script.start(arguments, variables)
    read_until(process, "deploy: running")

    process.send_signal(number)
    code, output = script.ended(process, variables)

    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL
    else:
        assert code == 128 + number
        assert f"the same command follows {operator.run_url(DAG, f'ci__{pipeline}__{SHA[:12]}')}" in output
    assert runs_of(operator, pipeline)[0]["state"] == "running"
    code, output = script.run(arguments, variables)
    assert (code, "it is followed" in output, "deploy: success" in output) == (0, True, True), output
    assert len(runs_of(operator, pipeline)) == 1


def test_the_same_pipeline_with_another_conf_starts_nothing(
    variables: dict[str, str], pipeline: str, operator: AirflowClient
) -> None:
    assert script.run(["--pipeline-id", pipeline], variables)[0] == 0
    code, output = script.run(["--pipeline-id", pipeline, "--conf", '{"seconds": 1}'], variables)
    assert (code, "this pipeline has started" in output) == (3, True), output
    assert len(runs_of(operator, pipeline)) == 1


def test_a_failure_is_told_with_its_reason(variables: dict[str, str], pipeline: str) -> None:
    for _ in range(2):
        code, output = script.run(["--pipeline-id", pipeline, "--conf", '{"fail": true}'], variables)
        assert code == 1, output
        assert "deploy has failed" in output
        assert "| app2 refused the release" in output
        assert not any(line.startswith("::") for line in output.splitlines())
        assert f"{DAG} HAS FAILED" in output


@pytest.mark.parametrize(("answer", "expected"), [("Approve", 0), ("Reject", 2)])
def test_the_approval_decides_the_exit_code(
    variables: dict[str, str],
    pipeline: str,
    local: LocalAirflow,
    operator: AirflowClient,
    answer: str,
    expected: int,
) -> None:
    process = script.start(["--pipeline-id", pipeline, "--conf", '{"ask": true}'], variables)
    seen = read_until(process, "WAITS FOR A DECISION")
    run_id = f"ci__{pipeline}__{SHA[:12]}"
    assert f"{operator.run_url(DAG, run_id)}/tasks/approve/required_actions" in seen
    time.sleep(3)
    with local.client("approver") as approver:
        approver.answer(DAG, run_id, "approve", [answer])

    code, output = script.ended(process, variables)

    assert code == expected, output
    assert f"approver has answered '{answer}': Deploy to sample?" in output
    assert ("was REJECTED, nothing was deployed" in output) is (expected == 2)


def test_an_api_server_that_goes_away_is_waited_for(
    variables: dict[str, str], pipeline: str, local: LocalAirflow, operator: AirflowClient
) -> None:
    process = script.start(["--pipeline-id", pipeline, "--conf", '{"seconds": 5}'], variables)
    read_until(process, "deploy: running")

    os.kill(local.supervision.pid("api-server"), signal.SIGKILL)

    code, output = script.ended(process, variables)
    assert code == 0, output
    assert "Airflow does not answer" in output
    assert "Airflow answers again" in output
    assert len(runs_of(operator, pipeline)) == 1


def test_an_expired_token_is_renewed(variables: dict[str, str], pipeline: str) -> None:
    console = deploy.Console()
    airflow = deploy.Airflow(variables["SEBENZA_AIRFLOW_URL"], "ci", variables["SEBENZA_AIRFLOW_PASSWORD"], 60, console)
    airflow.token = "expired"
    status, _ = airflow.ask("GET", f"/dags/{DAG}/details")
    assert (status, airflow.token == "expired") == (200, False)


@pytest.mark.parametrize(
    ("changes", "code", "expected"),
    [
        ({"SEBENZA_AIRFLOW_PASSWORD": "not-the-password"}, 3, "does not let ci in"),
        ({"SEBENZA_AIRFLOW_USER": "nobody"}, 3, "does not let nobody in"),
        ({"SEBENZA_ENVIRONMENT": "smaple"}, 3, "there is no deploy_standard.smaple"),
        ({"SEBENZA_CONF": '{"secondz": 1}'}, 3, "has no parameter ['secondz']"),
        ({"SEBENZA_CONF": '{"seconds": "long"}'}, 3, "was not started (HTTP 400)"),
        ({"SEBENZA_PATIENCE": "1", "SEBENZA_AIRFLOW_URL": ""}, 4, "does not answer since 1 s"),
        ({"SEBENZA_TIMEOUT": "1", "SEBENZA_CONF": '{"seconds": 5}'}, 4, "it goes on: http"),
    ],
    ids=["password", "user", "environment", "key", "value", "unreachable", "timeout"],
)
def test_what_can_not_be_started_or_followed_has_a_code_of_its_own(
    variables: dict[str, str], pipeline: str, changes: dict[str, str], code: int, expected: str
) -> None:
    if changes.get("SEBENZA_AIRFLOW_URL") == "":
        changes = {**changes, "SEBENZA_AIRFLOW_URL": f"http://127.0.0.1:{free_port()}"}
    found, output = script.run(["--pipeline-id", pipeline], {**variables, **changes})
    assert (found, expected in output) == (code, True), output
    assert "Traceback" not in output


def test_a_paused_procedure_is_refused(
    variables: dict[str, str], pipeline: str, local: LocalAirflow, operator: AirflowClient
) -> None:
    with local.client("admin") as admin:
        admin.set_paused(DAG, True)
        try:
            code, output = script.run(["--pipeline-id", pipeline], variables)
        finally:
            admin.set_paused(DAG, False)
    assert (code, "is paused" in output) == (3, True), output
    assert runs_of(operator, pipeline) == []


def test_a_user_without_the_right_is_told_so(variables: dict[str, str], pipeline: str, local: LocalAirflow) -> None:
    approver = local.users()["approver"]
    changes = {"SEBENZA_AIRFLOW_USER": approver.username, "SEBENZA_AIRFLOW_PASSWORD": approver.password}
    code, output = script.run(["--pipeline-id", pipeline], variables | changes)
    assert (code, "was not started (HTTP 403)" in output) == (3, True), output


# --- what the pipeline's user may do


@pytest.fixture
def ci(local: LocalAirflow) -> Iterator[AirflowClient]:
    with local.client("ci") as client:
        yield client


def status_of(client: AirflowClient, method: str, path: str, body: Any = None) -> int:
    """The HTTP status of the answer to a request."""
    import httpx

    full = path if path.startswith("/auth") else f"/api/v2{path}"
    headers = {"Authorization": f"Bearer {client.token()}"}
    return httpx.request(method, client.url + full, json=body, headers=headers, timeout=30, trust_env=False).status_code


def test_the_pipelines_user_starts_deployments_and_reads_their_runs(
    ci: AirflowClient, variables: dict[str, str], pipeline: str
) -> None:
    assert script.run(["--pipeline-id", pipeline], variables)[0] == 0
    run_id = f"ci__{pipeline}__{SHA[:12]}"
    assert ci.dag_run(DAG, run_id)["state"] == "success"
    assert ci.logs(DAG, run_id, "deploy")
    assert ci.xcom(DAG, run_id, "finish")
    assert {dag["dag_id"].partition(".")[0] for dag in ci.dags()} >= {"build_release", "deploy_blue_green"}


def test_the_pipelines_user_starts_no_other_procedure(ci: AirflowClient, local: LocalAirflow) -> None:
    with local.client("admin") as admin:
        others = [dag["dag_id"] for dag in admin.dags() if not dag["dag_id"].startswith(("deploy_", "build_release"))]
    assert {"rollback.production", "freeze.production", "release_lease.production"} <= set(others)
    body: dict[str, Any] = {"logical_date": None, "conf": {}}
    assert {dag_id: status_of(ci, "POST", f"/dags/{dag_id}/dagRuns", body) for dag_id in others} == dict.fromkeys(
        others, 403
    )
    assert {status_of(ci, "GET", f"/dags/{dag_id}/dagRuns") for dag_id in others} == {403}


def test_the_pipelines_user_may_nothing_else(
    ci: AirflowClient, operator: AirflowClient, local: LocalAirflow, pipeline: str
) -> None:
    run_id = operator.trigger(DAG, {"version": SHA, "ask": True})
    operator.await_state(DAG, run_id, {"awaiting_input"}, task_id="approve", timeout_seconds=60)
    run = f"/dags/{DAG}/dagRuns/{run_id}"
    clear = {"dry_run": False, "dag_run_id": run_id, "reset_dag_runs": True}
    answer = {"chosen_options": ["Approve"], "params_input": {}}
    backfill = {"dag_id": DAG, "from_date": "2026-01-01T00:00:00Z", "to_date": "2026-01-02T00:00:00Z"}
    connection = {"connection_id": "mine", "conn_type": "generic"}
    requests = [
        ("PATCH", f"{run}/taskInstances/approve/-1/hitlDetails", answer),
        ("PATCH", run, {"state": "failed"}),
        ("DELETE", run, None),
        ("POST", f"{run}/clear", {"dry_run": False}),
        ("POST", f"/dags/{DAG}/clearTaskInstances", clear),
        ("PATCH", f"{run}/taskInstances/deploy", {"new_state": "success"}),
        ("POST", f"{run}/taskInstances/way_in/xcomEntries", {"key": "k", "value": "v"}),
        ("DELETE", f"/dags/{DAG}", None),
        ("POST", "/backfills", backfill),
        ("GET", "/connections", None),
        ("GET", "/connections/sebenza_attestation", None),
        ("POST", "/connections", connection),
        ("GET", "/variables", None),
        ("POST", "/variables", {"key": "k", "value": "v"}),
        ("GET", "/config", None),
        ("GET", "/pools", None),
        ("GET", "/eventLogs", None),
        ("GET", "/importErrors", None),
        ("GET", "/auth/fab/v1/users", None),
        ("GET", "/auth/fab/v1/roles", None),
        ("PATCH", "/auth/fab/v1/roles/Pipeline", {"name": "Admin", "actions": []}),
    ]

    statuses = {f"{method} {path}": status_of(ci, method, path, body) for method, path, body in requests}

    assert {request: status for request, status in statuses.items() if status != 403} == {}
    operator.mark_failed(DAG, run_id)
