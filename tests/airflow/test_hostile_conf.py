"""200 hostile confs over the real API: each is refused, and seen from outside none has reached a shell or a host.

What runs as a command anywhere on this machine leaves a file; every command that arrives on a host of the lab is
recorded there, with its arguments, before it runs; and what the confs could have changed is compared with before.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from lab import checker, paths
from lab.addresses import HOST_NAMES
from lab.airflow.client import FINISHED_RUN, AirflowClient
from lab.airflow.stack import LocalAirflow
from lab.hosts import SERVICES
from lab.waiting import until
from sebenza_ops.ledger import Holder, Ledger, Outcome
from tests.airflow.hostile import CANARIES, NONCE, PROCEDURES, hostile_confs, texts

pytestmark = [pytest.mark.lab, pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(400)]

COUNT: Final = 200
# More would say that a schema is too wide: what it lets through costs a run.
MOST_RUNS: Final = 24
# The tasks of a refused run; all others must not have begun. A teardown tells people how it ended.
FIRST_TASKS: Final = {
    "acquire_lease",
    "build_release",
    "plan_rollback",
    "freeze",
    "show_lease",
    "plan_contract",
    "finish",
}
NOT_BEGUN: Final = {None, "upstream_failed", "skipped", "removed"}
RUNS: Final = secrets.token_hex(4)
HOSTS: Final = tuple(host for host in HOST_NAMES if "sshd" in SERVICES[host])
# Messages and evidence about refused runs are for people: they quote what was refused.
TOLD: Final = ("mailbox", "storage")
BUSY_ATTEMPTS: Final = 10
# The least that is looked for in commands where the text has no mark of its own.
TELLING_LENGTH: Final = 7


class Recorder:
    """Records each command that a host of the lab gets over SSH, by a `timeout` of its own: all of ours begin with it.

    Args:
        log: The file that gets the commands' arguments, each ended by NUL.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self._planted = [paths.host_files(host) / "usr/bin/timeout" for host in HOSTS]

    def __enter__(self) -> Recorder:
        self.log.touch()
        self.log.chmod(0o666)
        real = shutil.which("timeout", path="/usr/bin:/bin")
        assert real is not None
        for file in self._planted:
            assert not file.exists(), f"{file} was left by an earlier test: remove it"
            file.write_text(f'#!/bin/sh\nprintf "%s\\0" "$@" >>{self.log}\nexec {real} "$@"\n')
            file.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._planted:
            file.unlink(missing_ok=True)

    def prove(self, estate: Any) -> None:
        """What is proven by nothing being there must be there when something is: on every host."""
        for host in HOSTS:
            estate.shell(host, ["timeout", "5", "true", f"seen on {host}"])
        assert set(self.arguments()) >= {f"seen on {host}" for host in HOSTS}, "commands are not recorded"

    def arguments(self) -> list[str]:
        """All arguments of all commands so far."""
        return self.log.read_bytes().decode(errors="surrogateescape").split("\0")


@dataclass(frozen=True)
class Answer:
    """What the API said to a conf."""

    procedure: str
    conf: Any
    status: int
    run_id: str
    text: str


@pytest.fixture(scope="module")
def operator(estate: Any, airflow: LocalAirflow) -> Iterator[AirflowClient]:
    with airflow.client("operator") as client:
        yield client


@pytest.fixture
def recorder(estate: Any) -> Iterator[Recorder]:
    CANARIES.mkdir()
    CANARIES.chmod(0o777)
    with Recorder(CANARIES / "commands") as found:
        yield found
    shutil.rmtree(CANARIES)


@pytest.fixture
def ledger(operator: AirflowClient) -> Ledger:
    return Ledger.open(f"sqlite:///{paths.LEDGER_FILE}")


def post(client: AirflowClient, procedure: str, conf: Any, number: int) -> Answer:
    """Ask for a run as a client does that minds no rule of JSON."""
    # Without the mark: a run's id is Airflow's own matter, and goes to hosts as the holder of a fencing token.
    run_id = f"hostile-{RUNS}-{number}"
    body = json.dumps({"dag_run_id": run_id, "logical_date": None, "conf": conf})
    headers = {"Authorization": f"Bearer {client.token()}", "Content-Type": "application/json"}
    url = f"{client.url}/api/v2/dags/{procedure}/dagRuns"
    for _ in range(BUSY_ATTEMPTS):
        answer = httpx.post(url, content=body, headers=headers, timeout=60, trust_env=False)
        # SQLite was busy for too long: the server has rolled back, nothing has happened.
        if answer.status_code != httpx.codes.INTERNAL_SERVER_ERROR or "Database error" not in answer.text:
            break
    return Answer(procedure, conf, answer.status_code, run_id, answer.text[:2000])


def is_no_number(conf: Any) -> bool:
    """A conf that is NaN or infinity itself: Airflow 3.3.2 refuses it, and breaks on the text of its own refusal."""
    return isinstance(conf, float) and not math.isfinite(conf)


def followed(client: AirflowClient, answers: list[Answer], timeout_seconds: float = 240) -> dict[str, str]:
    """Wait until all runs have ended; their states by run."""
    states: dict[str, str] = {}

    def open_runs() -> list[Answer]:
        return [each for each in answers if each.run_id not in states]

    def all_ended() -> bool:
        for procedure in {each.procedure for each in open_runs()}:
            for run in client.dag_runs(procedure, limit=100):
                if run["state"] in FINISHED_RUN and run["dag_run_id"] in awaited:
                    states[run["dag_run_id"]] = run["state"]
        return not open_runs()

    awaited = {each.run_id for each in answers}
    until(
        all_ended,
        "all runs end",
        timeout_seconds,
        progress=lambda: f"these do not: {[(each.procedure, each.conf) for each in open_runs()]}"[:2000],
        poll_seconds=1,
        error=AssertionError,
    )
    return states


def estate_now() -> dict[str, Any]:
    """What a command that got through would have changed: traffic, processes, fences, markers, the build host."""
    found: dict[str, Any] = {}
    for name in ("production", "staging"):
        verdict = checker.check(name)
        assert not verdict.problems, verdict.problems
        found[name] = (verdict.live_color_by_lb, verdict.releases, verdict.marker_by_host, verdict.last_good_by_host)
    for host in HOSTS:
        root = paths.host_files(host)
        for directory in ("var/lib/sebenza", "srv/git", "srv/build"):
            files = [file for file in (root / directory).rglob("*") if file.is_file() and file.suffix != ".lock"]
            found[f"{host} {directory}"] = {str(file): (file.stat().st_size, file.stat().st_mtime) for file in files}
    return found


def touched_files(since: float) -> list[str]:
    """Files on the hosts of the lab that were written since then and have the mark in them."""
    roots = [str(paths.host_files(host)) for host in HOSTS if host not in TOLD]
    listed = subprocess.run(
        ["find", *roots, "-type", "f", "-newermt", f"@{since}", "-size", "-64M", "-print0"],
        check=False,  # files that go while it looks
        capture_output=True,
    ).stdout
    found = []
    for name in listed.split(b"\0"):
        file = Path(os.fsdecode(name))
        if name and file.is_file() and NONCE.encode() in file.read_bytes():
            found.append(str(file))
    return found


def leaves_no_trace(answers: list[Answer], recorder: Recorder) -> None:
    canaries = sorted(file.name for file in CANARIES.iterdir() if file != recorder.log)
    assert canaries == [], f"a conf was run as a command: {canaries}"
    arguments = [argument for argument in recorder.arguments() if argument]
    marked = [argument[:300] for argument in arguments if NONCE in argument]
    assert marked == [], "a value of a conf is in a command of a host"
    telling = {text for each in answers for text in texts(each.conf) if len(text) >= TELLING_LENGTH}
    assert telling.isdisjoint(arguments), "a value of a conf is an argument of a host's command"


def test_no_hostile_conf_reaches_a_shell_or_a_host(
    operator: AirflowClient, recorder: Recorder, ledger: Ledger, estate: Any
) -> None:
    confs = hostile_confs(COUNT)
    assert len(confs) == COUNT
    recorder.prove(estate)
    before, began_at = estate_now(), time.time()

    answers = [post(operator, procedure, conf, number) for number, (procedure, conf) in enumerate(confs)]

    odd = [each for each in answers if each.status >= 500 and not is_no_number(each.conf)]
    assert odd == [], "the API broke instead of refusing"
    started = [each for each in answers if each.status < 400]
    runs = {run["dag_run_id"] for procedure in PROCEDURES for run in operator.dag_runs(procedure, limit=100)}
    mine = {run_id for run_id in runs if run_id.startswith(f"hostile-{RUNS}-")}
    assert mine == {each.run_id for each in started}, "a conf that was refused has a run"
    assert len(started) <= MOST_RUNS, [(each.procedure, each.conf) for each in started]
    hidden = [value for connection in estate.connections.values() if (value := connection.get("password"))]
    assert not [each.text for each in answers if any(secret in each.text for secret in hidden)], "a secret was told"

    states = followed(operator, started)

    went_on = [(each.procedure, each.conf) for each in started if states[each.run_id] != "failed"]
    assert went_on == [], "these runs were not refused"
    for each in started:
        tasks = {task.task_id: task.state for task in operator.task_instances(each.procedure, each.run_id)}
        begun = {name for name, state in tasks.items() if state not in NOT_BEGUN}
        assert begun <= FIRST_TASKS, (each, tasks)
        holder = Holder(each.procedure, each.run_id, "operator")
        record = ledger.deployments.find(holder.dag_id, holder.run_id)
        assert record is None or record.outcome is Outcome.REFUSED, (each, record)
        held = [lease for lease in ledger.leases.history("production") if lease.holder.is_run(holder)]
        assert held == [], f"{each} has held the lease"
    assert ledger.leases.current_freeze("production") is None
    leaves_no_trace(answers, recorder)
    assert estate_now() == before
    assert touched_files(began_at) == []


def test_a_reason_is_shown_as_it_is_and_never_rendered(
    operator: AirflowClient, airflow: LocalAirflow, recorder: Recorder, ledger: Ledger
) -> None:
    """A reason is free text, and what a template puts before people: here into the question of release_lease."""
    procedure = "release_lease.production"
    reason = f"{{{{ 7 * 191 }}}} {{% raw %}} $(touch {CANARIES}/reason) `id` \\\n\n# {NONCE} <script>alert(1)</script>"
    held = ledger.leases.acquire("production", Holder("tests", f"stuck_{NONCE}", "thandi"), "a stuck test", 600)
    try:
        answer = post(operator, procedure, {"reason": reason}, COUNT)
        assert answer.status == 200, answer
        operator.await_state(procedure, answer.run_id, {"awaiting_input"}, task_id="decide", timeout_seconds=150)
        body = str(operator.hitl_details(procedure, answer.run_id, "decide")["body"])
        # On one line: it must not look like a part of the question.
        assert " ".join(reason.split()) in body
        assert "1337" not in body.replace(NONCE, "")
        # Airflow may fail a task that is answered at the moment it parks: people are not that fast.
        time.sleep(3)
        with airflow.client("approver") as approver:
            approver.answer(procedure, answer.run_id, "decide", ["Reject"])
        assert operator.await_state(procedure, answer.run_id, timeout_seconds=90) == "failed"
    finally:
        ledger.leases.release("production", held.token, "the test is over", "tests")
    leaves_no_trace([answer], recorder)
