"""The local Airflow for real: it comes up from nothing, runs, survives, and goes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from datetime import UTC, datetime

import psutil
import pytest

from lab.airflow.client import AirflowClient, AirflowRefusedError, AwaitTimeoutError
from lab.airflow.follow import Outcome, run_and_follow
from lab.airflow.processes import NoSuchTaskProcessError, TaskProcesses, task_processes
from lab.airflow.settings import ADDRESS, AirflowSettings
from lab.airflow.stack import AirflowUnavailableError, LocalAirflow, Report
from lab.airflow.supervision import COMPONENTS
from lab.waiting import until

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(300)]

SAMPLE = "deploy_sample.test"


def test_is_ready_from_nothing(own_airflow: tuple[LocalAirflow, Report]) -> None:
    airflow, report = own_airflow

    assert not report.already_running
    assert report.import_errors == []
    assert {SAMPLE, "work_sample.test", "ask_sample.test"} < set(report.dag_ids)
    assert {name: state["statename"] for name, state in airflow.supervision.states().items()} == dict.fromkeys(
        COMPONENTS, "RUNNING"
    )


def test_up_again_changes_nothing(local: LocalAirflow) -> None:
    pids = {name: local.supervision.pid(name) for name in COMPONENTS}

    assert local.up().already_running
    assert {name: local.supervision.pid(name) for name in COMPONENTS} == pids


def test_listens_on_loopback_only(local: LocalAirflow) -> None:
    addresses = {
        connection.laddr.ip
        for process in local.supervision.descendants()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }

    assert addresses == {ADDRESS}


def test_secrets_are_readable_by_the_owner_only(local: LocalAirflow) -> None:
    home = local.settings.home

    assert {file: (home / file).stat().st_mode & 0o777 for file in ("users.json", "keys.json", "airflow.cfg")} == {
        "users.json": 0o600,
        "keys.json": 0o600,
        "airflow.cfg": 0o600,
    }


# --- runs


def test_a_run_is_followed_to_success(operator: AirflowClient) -> None:
    lines: list[str] = []

    assert run_and_follow(operator, SAMPLE, {"version": "v2"}, lines.append) == Outcome.SUCCESS

    run = operator.dag_runs(SAMPLE, limit=1)[0]
    assert run["triggering_user_name"] == "operator"
    assert operator.xcom(SAMPLE, run["dag_run_id"], "deploy") == "v2"
    assert operator.run_url(SAMPLE, run["dag_run_id"]) in "\n".join(lines)
    assert any("verify" in line and "success" in line for line in lines)
    assert "Succeeded: v2 answers" in lines
    assert lines[-1].startswith(f"Evidence: {operator.url}/sebenza/evidence/{SAMPLE}/")
    assert any("v2 answers" in str(line["event"]) for line in operator.logs(SAMPLE, run["dag_run_id"], "verify"))


def test_a_failed_run_says_what_failed_and_why(operator: AirflowClient) -> None:
    lines: list[str] = []

    assert run_and_follow(operator, SAMPLE, {"fail": True}, lines.append) == Outcome.FAILURE

    text = "\n".join(lines)
    assert "deploy failed (try 1)" in text
    assert "RuntimeError: app2 refused the release" in text


@pytest.mark.parametrize(
    ("dag_id", "conf", "expected"),
    [
        (SAMPLE, {"version": "v1; rm -rf /"}, "version"),
        (SAMPLE, {"versoin": "v2"}, "'versoin' (did you mean 'version'?)"),
        ("deploy_sample.tset", {}, "there is no procedure 'deploy_sample.tset'"),
    ],
)
def test_bad_input_is_refused_before_there_is_a_run(
    operator: AirflowClient, dag_id: str, conf: dict[str, object], expected: str
) -> None:
    lines: list[str] = []
    before = len(operator.dag_runs(SAMPLE))

    assert run_and_follow(operator, dag_id, conf, lines.append) == Outcome.REFUSED

    assert expected in "\n".join(lines)
    assert len(operator.dag_runs(SAMPLE)) == before


def test_a_paused_procedure_is_refused_instead_of_waiting(operator: AirflowClient) -> None:
    operator.set_paused("paused_sample.test", True)
    lines: list[str] = []

    assert run_and_follow(operator, "paused_sample.test", {}, lines.append) == Outcome.REFUSED

    assert "is paused" in lines[0]
    assert operator.dag_runs("paused_sample.test") == []


def test_unknown_keys_over_the_api_fail_the_first_task(operator: AirflowClient) -> None:
    run_id = operator.trigger(SAMPLE, {"versoin": "v2"})

    assert operator.await_state(SAMPLE, run_id) == "failed"

    states = {task.task_id: task.state for task in operator.task_instances(SAMPLE, run_id)}
    assert states == {"deploy": "failed", "verify": "upstream_failed"}
    assert "known keys: fail, version" in str(operator.logs(SAMPLE, run_id, "deploy"))


def test_a_run_can_be_cleared_and_marked(operator: AirflowClient) -> None:
    run_id = operator.trigger("work_sample.test")
    operator.await_state("work_sample.test", run_id, {"running"}, task_id="work", timeout_seconds=60)

    operator.mark_failed("work_sample.test", run_id)
    assert operator.await_state("work_sample.test", run_id) == "failed"

    assert operator.clear("work_sample.test", run_id) == ["work"]
    assert operator.await_state("work_sample.test", run_id, timeout_seconds=60) == "success"


def test_waiting_ends_when_the_state_cannot_come_any_more(operator: AirflowClient) -> None:
    run_id = operator.trigger(SAMPLE, {"fail": True})

    with pytest.raises(AwaitTimeoutError, match="the run has ended as failed"):
        operator.await_state(SAMPLE, run_id, {"success"}, task_id="verify", timeout_seconds=60)


def test_a_changed_inventory_is_read_long_before_the_files_turn(local: LocalAirflow, operator: AirflowClient) -> None:
    """What a file's DAGs are follows from the inventory; nobody asks for the parse."""
    file = local.settings.environments_directory / "staging.yaml"
    changed_at = datetime.now(UTC)
    file.write_text(file.read_text() + "\n# Changed by a test.\n")

    def parsed_at() -> datetime:
        return datetime.fromisoformat(str(operator.dag_details("deploy_blue_green.staging")["last_parsed_time"]))

    # Far from the time of the files' turn, also on a slow machine.
    until(lambda: parsed_at() > changed_at, "the procedures are parsed again", 40, cap_seconds=300, poll_seconds=1)


# --- rights


@pytest.mark.parametrize(
    ("username", "dag_id", "allowed"),
    [
        ("ci", SAMPLE, True),
        ("ci", "work_sample.test", False),
        ("approver", SAMPLE, False),
        ("admin", SAMPLE, True),
    ],
)
def test_who_may_start_what(local: LocalAirflow, username: str, dag_id: str, allowed: bool) -> None:
    with local.client(username) as client:
        if allowed:
            assert client.await_state(dag_id, client.trigger(dag_id, {})) == "success"
        else:
            with pytest.raises(AirflowRefusedError) as refused:
                client.trigger(dag_id, {})
            assert refused.value.status == 403


def test_ci_sees_only_what_it_may_start(local: LocalAirflow) -> None:
    with local.client("ci") as client:
        assert {dag["dag_id"].split("_")[0] for dag in client.dags()} <= {"deploy", "build"}


def test_only_an_approver_may_answer(local: LocalAirflow, operator: AirflowClient) -> None:
    run_id = operator.trigger("ask_sample.test")
    operator.await_state("ask_sample.test", run_id, {"awaiting_input"}, task_id="ask", timeout_seconds=60)

    for username in ("operator", "ci"):
        with local.client(username) as client, pytest.raises(AirflowRefusedError) as refused:
            client.answer("ask_sample.test", run_id, "ask", ["Approve"])
        assert refused.value.status == 403
    with local.client("approver") as approver:
        answer = approver.answer("ask_sample.test", run_id, "ask", ["Approve"])

    # How the run goes on is tests/test_decisions.py's: Airflow may fail the task that was answered, and ask anew.
    assert answer["responded_by"]["name"] == "approver"
    assert answer["chosen_options"] == ["Approve"]


# --- processes that die


@pytest.mark.parametrize(
    "kill",
    [
        pytest.param(TaskProcesses.kill_task, id="task"),
        # tests/installation kills a worker in each run.
        pytest.param(TaskProcesses.kill_worker, id="worker", marks=pytest.mark.long),
    ],
)
def test_a_killed_task_works_again(
    local: LocalAirflow, operator: AirflowClient, kill: Callable[[TaskProcesses], None]
) -> None:
    run_id = operator.trigger("work_sample.test")
    found = task_processes(local.supervision, operator, "work_sample.test", run_id, "work", timeout_seconds=60)
    operator.await_state("work_sample.test", run_id, {"running"}, task_id="work", timeout_seconds=60)
    until(lambda: _has_begun(operator, run_id), "the task is at work")

    kill(found)

    # With Airflow's defaults nobody would hear of a killed worker for five minutes.
    assert operator.await_state("work_sample.test", run_id, timeout_seconds=90) == "success"
    assert operator.xcom("work_sample.test", run_id, "work") == 2


def test_an_ended_task_has_no_process(local: LocalAirflow, operator: AirflowClient) -> None:
    run_id = operator.trigger(SAMPLE)
    operator.await_state(SAMPLE, run_id)

    with pytest.raises(NoSuchTaskProcessError, match="its state is success"):
        task_processes(local.supervision, operator, SAMPLE, run_id, "deploy")


@pytest.mark.long
@pytest.mark.parametrize("component", COMPONENTS)
def test_a_killed_component_comes_back(local: LocalAirflow, operator: AirflowClient, component: str) -> None:
    pid = local.supervision.pid(component)

    os.kill(pid, signal.SIGKILL)

    until(lambda: local.supervision.states()[component]["pid"] not in (0, pid), f"{component} is started again")
    # The client waits for a server that is away.
    assert operator.await_state(SAMPLE, operator.trigger(SAMPLE), timeout_seconds=120) == "success"


# --- the end


def test_a_taken_port_is_said_in_one_line(local: LocalAirflow) -> None:
    settings = AirflowSettings(home=local.settings.home.parent / "second", port=local.settings.port)

    with pytest.raises(AirflowUnavailableError) as refused:
        LocalAirflow(settings).up()

    needed = f"{ADDRESS}:{local.settings.port}, which the lab's Airflow needs, is taken"
    assert str(refused.value).startswith(f"{needed} (Address already in use) by ")
    assert "\n" not in str(refused.value)


@pytest.mark.long
def test_down_leaves_no_process_even_of_a_killed_supervisor_and_up_finds_the_history(
    local: LocalAirflow, operator: AirflowClient
) -> None:
    run_id = operator.trigger(SAMPLE)
    operator.await_state(SAMPLE, run_id)
    supervisor = local.supervision.process()
    assert supervisor is not None
    family = [supervisor, *local.supervision.descendants()]
    assert len(family) > len(COMPONENTS)

    supervisor.kill()
    local.down()

    assert [process for process in family if _is_alive(process)] == []
    with socket.socket() as probe:
        assert probe.connect_ex((ADDRESS, local.settings.port)) != 0

    local.up()
    family = local.supervision.descendants()
    assert operator.dag_run(SAMPLE, run_id)["state"] == "success"
    local.down()

    assert [process for process in family if _is_alive(process)] == []


def _has_begun(client: AirflowClient, run_id: str) -> bool:
    task_id = "work"
    rows = client.request("GET", f"/dags/work_sample.test/dagRuns/{run_id}/taskInstances/{task_id}/state-store")
    return any(value for value in rows.values() if isinstance(value, list))


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
