"""The passive wait in the triggerer, against a real sshd."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sebenza_ops.deployment.triggers import HostScriptTrigger
from sebenza_ops.environments.models import Host
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import AN_HOST_KEY
from tests.systems.processes import command_line, free_port, until
from tests.systems.sshd import SshServer

pytestmark = pytest.mark.integration


def trigger(
    work_dir: Path, *hosts: Host, wait_seconds: float, conn_id: str = SSH_CONNECTION, interval_seconds: float = 0.1
) -> HostScriptTrigger:
    """Waits for a build on the hosts: by its real script, and the real rule."""
    return HostScriptTrigger(
        waiting_for="a build",
        judge_name="missing_build",
        judge_arguments={},
        ssh_conn_id=conn_id,
        hosts=[host.model_dump(mode="json") for host in hosts],
        script="build_status",
        arguments={host.name: [str(work_dir), "sha"] for host in hosts},
        interval_seconds=interval_seconds,
        deadline=time.time() + wait_seconds,
    )


def missing(waiting: HostScriptTrigger) -> list[str]:
    """What the one event of a trigger says."""

    async def events() -> list[Any]:
        return [event.payload async for event in waiting.run()]

    (payload,) = asyncio.run(events())
    found: list[str] = payload["missing"]
    return found


@pytest.fixture
def running_build(tmp_path: Path) -> Path:
    """A build that looks running as long as the test holds its lock."""
    job = tmp_path / "sha"
    job.mkdir()
    (job / "log").write_text("npm ci\n")
    return job


class Held:
    """Holds a build's lock, as the build itself does."""

    def __init__(self, job: Path) -> None:
        import fcntl

        self._file = (job / "lock").open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def let_go(self) -> None:
        self._file.close()


def test_a_wait_that_is_met_ends_with_its_first_look(sshd: SshServer, tmp_path: Path) -> None:
    # There is no second one within this test's time.
    assert missing(trigger(tmp_path, sshd.host("build"), wait_seconds=7200, interval_seconds=3600)) == []


def test_a_wait_ends_when_its_condition_comes_true(sshd: SshServer, tmp_path: Path, running_build: Path) -> None:
    held = Held(running_build)
    let_go = threading.Event()

    def end() -> None:
        let_go.set()
        held.let_go()

    timer = threading.Timer(1.0, end)
    timer.start()
    assert missing(trigger(tmp_path, sshd.host("build"), wait_seconds=3600)) == []
    assert let_go.is_set(), "it did not wait"
    timer.join()


def test_a_deadline_ends_with_what_was_missing(sshd: SshServer, tmp_path: Path, running_build: Path) -> None:
    held = Held(running_build)
    (text,) = missing(trigger(tmp_path, sshd.host("build"), wait_seconds=0.5))
    assert text == "the build runs: npm ci"
    held.let_go()


def test_a_host_that_cannot_be_asked_keeps_the_wait_until_the_deadline(sshd: SshServer, tmp_path: Path) -> None:
    away = sshd.host("away").model_copy(update={"ssh": sshd.host().ssh.model_copy(update={"port": free_port()})})
    assert missing(trigger(tmp_path, sshd.host("here"), away, wait_seconds=0.5)) == ["away can't be asked"]


@pytest.mark.parametrize("extra", [{}, {"no_host_key_check": True}, {"host_key": None}])
def test_a_host_with_another_key_is_never_asked(
    sshd: SshServer, tmp_path: Path, extra: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "host_key" in extra:
        extra = {"host_key": sshd.host_key}
    monkeypatch.setenv("AIRFLOW_CONN_CARELESS", sshd.connection(**extra))
    impostor = sshd.host("impostor", host_key=AN_HOST_KEY)
    assert missing(trigger(tmp_path, impostor, wait_seconds=0.2, conn_id="careless")) == ["impostor can't be asked"]


def test_an_answer_that_was_cut_off_is_no_answer(sshd: SshServer, tmp_path: Path, running_build: Path) -> None:
    # The log is a pipe: the script stands still in the middle of its answer until the connection is cut.
    import os

    (running_build / "log").unlink()
    os.mkfifo(running_build / "log")
    held = Held(running_build)

    def cut() -> None:
        until(lambda: any(command_line(pid).startswith("tail ") for pid in sshd.sessions()), "the script is half way")
        sshd.cut()

    thread = threading.Thread(target=cut)
    thread.start()
    found = missing(trigger(tmp_path, sshd.host("build"), wait_seconds=0))
    thread.join()
    held.let_go()
    assert found == ["build can't be asked"]


def test_a_triggerer_that_restarts_goes_on_with_the_same_deadline(sshd: SshServer, tmp_path: Path) -> None:
    before = trigger(tmp_path, sshd.host("build"), wait_seconds=5)
    path, arguments = before.serialize()
    assert path == "sebenza_ops.deployment.triggers.HostScriptTrigger"
    again = HostScriptTrigger(**arguments)
    assert again.serialize() == (path, arguments)
    assert again.deadline == before.deadline
    assert missing(again) == []
