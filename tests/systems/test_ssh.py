"""Sessions to a real sshd: keys, timeouts, cut connections, secrets, fences."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sebenza_ops.systems.errors import FencedOffError, HostUnreachableError, OutsideSystemError, RemoteCommandError
from sebenza_ops.systems.fencing import SeenToken, raise_tokens, read_tokens
from sebenza_ops.systems.ssh import (
    CommandResult,
    Fence,
    HostSession,
    give_back,
    kept_sessions,
    on_hosts,
    open_session,
    raise_first_error,
    take_session,
)
from tests.systems.conftest import SSH_CONNECTION
from tests.systems.estates import AN_HOST_KEY, shipped
from tests.systems.processes import LOOPBACK, command_line, free_port, is_running, until
from tests.systems.sshd import SshServer, key_pair

pytestmark = pytest.mark.integration


@pytest.fixture
def session(sshd: SshServer) -> Iterator[HostSession]:
    with open_session(sshd.host(), SSH_CONNECTION) as found:
        yield found


def test_a_command_gives_status_and_both_outputs(session: HostSession) -> None:
    result = session.run(["sh", "-c", "cat; echo err >&2; exit 3"], stdin="in\n", check=False)
    assert result == CommandResult(3, "in\n", "err\n")


def test_arguments_arrive_as_they_are(session: HostSession) -> None:
    odd = ["", " ", "a b", "$(id)", "`id`", "'", '"', "\\", "*", "~", "\n", "é😀", "-n", "--", "#", "a;b&c|d>e<f", "!!"]
    result = session.run(["printf", "%s\\0", *odd])
    assert result.stdout.split("\0")[:-1] == odd


def test_a_failed_command_says_which_where_and_why(session: HostSession) -> None:
    with pytest.raises(RemoteCommandError, match=r"app1: file_read failed with exit status 3") as caught:
        session.run_script("file_read", ["/nonexistent"])
    assert caught.value.exit_status == 3
    with pytest.raises(RemoteCommandError, match="because of this"):
        session.run(["sh", "-c", "echo because of this >&2; exit 1"])


def test_much_output_on_both_streams_does_not_block(session: HostSession) -> None:
    # More than one window (2 MiB) on the stream that is read last.
    script = "head -c 5000000 /dev/zero >&2; head -c 3000000 /dev/zero"
    result = session.run(["sh", "-c", script], timeout_seconds=20)
    assert (len(result.stdout), len(result.stderr)) == (3_000_000, 5_000_000)


def test_a_host_with_another_key_is_refused(sshd: SshServer) -> None:
    with pytest.raises(HostUnreachableError, match="host key is not the one of the inventory") as caught:
        HostSession(sshd.host(host_key=AN_HOST_KEY), SSH_CONNECTION).connect()
    assert "app1: " in str(caught.value)


@pytest.mark.parametrize("extra", [{"no_host_key_check": True}, {"allow_host_key_change": True}])
def test_no_connection_can_switch_the_host_key_check_off(
    sshd: SshServer, extra: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CARELESS", sshd.connection(**extra))
    with pytest.raises(HostUnreachableError, match="host key"):
        HostSession(sshd.host(host_key=AN_HOST_KEY), "careless").connect()
    with open_session(sshd.host(), "careless") as session:
        assert session.run(["true"]).exit_status == 0


def test_a_key_that_is_not_let_in_is_said(sshd: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_pair(tmp_path / "stranger")
    monkeypatch.setenv("AIRFLOW_CONN_STRANGER", sshd.connection(key_file=str(tmp_path / "stranger")))
    with pytest.raises(HostUnreachableError, match=f"no SSH connection to 127.0.0.1:{sshd.port}"):
        HostSession(sshd.host(), "stranger").connect()


def test_nobody_listens(sshd: SshServer) -> None:
    host = sshd.host().model_copy(update={"ssh": sshd.host().ssh.model_copy(update={"port": free_port()})})
    with pytest.raises(HostUnreachableError, match="no SSH connection"):
        HostSession(host, SSH_CONNECTION).connect()


def test_a_host_that_hangs_up_is_tried_once(sshd: SshServer) -> None:
    tried: list[object] = []

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                connection, client = listener.accept()
                tried.append(client)
                connection.close()

    with socket.create_server((LOOPBACK, 0)) as listener:
        answering = threading.Thread(target=hang_up)
        answering.start()
        try:
            port = listener.getsockname()[1]
            host = sshd.host().model_copy(update={"ssh": sshd.host().ssh.model_copy(update={"port": port})})
            with pytest.raises(HostUnreachableError, match="no SSH connection"):
                HostSession(host, SSH_CONNECTION).connect()
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            answering.join()
    assert len(tried) == 1, "the provider's own retries would delay a rollback"


def test_a_timeout_ends_the_command_on_the_host_too(session: HostSession, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with pytest.raises(RemoteCommandError, match=r"test-job was ended after 3 s"):
        session.run(["sh", "-c", 'echo $$ >"$1"; sleep 3600', "test-job", str(pid_file)], timeout_seconds=3)
    until(lambda: not is_running(int(pid_file.read_text())), "the remote command has ended")
    assert session.run(["echo", "on"]).stdout == "on\n", "the session is lost with the command"


def test_a_command_that_ignores_its_end_is_killed(session: HostSession, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = "trap '' TERM; echo $$ >\"$1\"; while :; do sleep 0.2; done"
    with pytest.raises(OutsideSystemError, match=r"killed|timed out"):
        session.run(["sh", "-c", script, "stubborn", str(pid_file)], timeout_seconds=3)
    until(lambda: not is_running(int(pid_file.read_text())), "the remote command has ended")


def test_a_connection_that_is_cut_in_the_middle_leaves_the_outcome_unknown(
    sshd: SshServer, session: HostSession, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    caught: list[BaseException] = []

    def work() -> None:
        try:
            session.run(["sh", "-c", 'touch "$1"; sleep 3600', "job", str(started)])
        except HostUnreachableError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(started.exists, "the command runs")
    sshd.cut()
    until(lambda: not thread.is_alive(), "a cut connection is noticed before the command would have ended")
    assert len(caught) == 1
    assert "outcome is unknown" in str(caught[0])
    assert not session.is_open
    assert session.run(["echo", "again"]).stdout == "again\n", "the next command must connect anew"


def test_secrets_on_standard_input_are_in_no_process_list(
    sshd: SshServer, session: HostSession, tmp_path: Path
) -> None:
    release = tmp_path / "go"
    seen: list[str] = []

    def look() -> None:
        until(lambda: any("sleep 0.05" in command_line(pid) for pid in sshd.sessions()), "the command runs")
        seen.extend(command_line(pid) for pid in sshd.sessions())
        release.touch()

    thread = threading.Thread(target=look)
    thread.start()
    script = 'until [ -e "$1" ]; do sleep 0.05; done; cat'
    result = session.run(["sh", "-c", script, "job", str(release)], stdin="TOPSECRET")
    thread.join()
    assert result.stdout == "TOPSECRET", "the secret did not arrive"
    assert any("job" in line for line in seen), "the test has not looked at the right processes"
    assert not any("TOPSECRET" in line for line in seen)


def test_a_fence_becomes_its_own_error_even_unchecked(session: HostSession, tmp_path: Path) -> None:
    fence = Fence("production", 7, "dag/run")
    session.run_script("fence_raise", Fence("production", 8, "later/run").arguments(str(tmp_path)))
    for check in (True, False):
        with pytest.raises(FencedOffError, match="token 7 is lower than 8 later/run") as caught:
            session.run_script("fence_raise", fence.arguments(str(tmp_path)), check=check)
        assert "must stop" in str(caught.value)


def test_all_hosts_are_asked_and_errors_stay_with_their_host(sshd: SshServer) -> None:
    hosts = [sshd.host("good"), sshd.host("wrong", host_key=AN_HOST_KEY), sshd.host("bad")]

    def action(session: HostSession) -> str:
        if session.host.name == "bad":
            session.run(["false"])
        return session.run(["echo", session.host.name]).stdout.strip()

    answers = on_hosts(hosts, SSH_CONNECTION, action)
    assert answers["good"] == "good"
    assert isinstance(answers["wrong"], HostUnreachableError)
    assert isinstance(answers["bad"], RemoteCommandError)
    with pytest.raises(OutsideSystemError, match=r"wrong: .*; bad: "):
        raise_first_error(answers)


def test_hosts_are_asked_at_the_same_time(sshd: SshServer, tmp_path: Path) -> None:
    hosts = [sshd.host(f"host{number}") for number in range(4)]
    # Each ends only when all have begun.
    script = 'touch "$1/$2"; while [ "$(ls "$1" | wc -l)" -lt 4 ]; do sleep 0.05; done'

    def meet(session: HostSession) -> CommandResult:
        return session.run(["sh", "-c", script, "meet", str(tmp_path), session.host.name], timeout_seconds=60)

    raise_first_error(on_hosts(hosts, SSH_CONNECTION, meet))


def test_rounds_share_one_login_within_kept_sessions(sshd: SshServer) -> None:
    def login(session: HostSession) -> str:
        # SSH_CONNECTION has the client's port: another one is another login.
        return session.run(["printenv", "SSH_CONNECTION"]).stdout

    def rounds() -> list[object]:
        return [on_hosts([sshd.host()], SSH_CONNECTION, login)["app1"] for _ in range(3)]

    assert len(set(rounds())) == 3
    with kept_sessions():
        kept = rounds()
    assert len(set(kept)) == 1
    assert not set(rounds()) & set(kept)


def test_a_kept_session_is_one_users_at_a_time_and_comes_back(sshd: SshServer) -> None:
    def login(session: HostSession) -> str:
        return session.run(["printenv", "SSH_CONNECTION"]).stdout

    def by_round() -> object:
        return on_hosts([sshd.host()], SSH_CONNECTION, login)["app1"]

    with kept_sessions():
        first = by_round()
        with open_session(sshd.host(), SSH_CONNECTION) as taken:
            assert login(taken) == first
            # Meanwhile it is nobody else's.
            assert by_round() != first
        assert not taken.is_open
        second = by_round()
        with open_session(sshd.host(), SSH_CONNECTION) as taken:
            assert login(taken) == second
        assert by_round() == second
        kept = take_session(sshd.host(), SSH_CONNECTION)
        give_back(kept, SSH_CONNECTION)
    assert not kept.is_open


def test_a_kept_session_that_was_cut_logs_in_again(sshd: SshServer) -> None:
    sessions: list[HostSession] = []

    def remember(session: HostSession) -> CommandResult:
        sessions.append(session)
        return session.run(["true"])

    with kept_sessions():
        raise_first_error(on_hosts([sshd.host()], SSH_CONNECTION, remember))
        sessions[0].close()
        raise_first_error(on_hosts([sshd.host()], SSH_CONNECTION, remember))
        assert sessions[0] is sessions[1]
    assert not sessions[0].is_open


def test_a_defect_in_our_own_code_is_not_taken_for_a_host_error(sshd: SshServer) -> None:
    with pytest.raises(ZeroDivisionError):
        on_hosts([sshd.host()], SSH_CONNECTION, lambda _: 1 / 0)


def test_a_fence_is_raised_before_anything_else_that_went_wrong() -> None:
    fenced = FencedOffError("token", host="b", exit_status=77)
    with pytest.raises(FencedOffError):
        raise_first_error({"a": HostUnreachableError("gone", host="a"), "b": fenced})
    raise_first_error({"a": "fine", "b": None})


def test_tokens_are_raised_and_read_on_every_host(sshd: SshServer, tmp_path: Path) -> None:
    environment = shipped("production").model_copy(update={"ssh_conn_id": SSH_CONNECTION})
    hosts = [sshd.host(name, root_dir=str(tmp_path / name)) for name in ("lb1", "app1")]
    assert read_tokens(environment, hosts) == {"lb1": SeenToken(0), "app1": SeenToken(0)}
    raised = raise_tokens(environment, hosts, Fence(environment.name, 12, "dag/run"))
    assert read_tokens(environment, hosts) == raised
    assert isinstance(raised["app1"], SeenToken)
    assert (raised["app1"].token, raised["app1"].holder) == (12, "dag/run")
    later = raise_tokens(environment, hosts, Fence(environment.name, 11, "old/run"))
    assert all(isinstance(answer, FencedOffError) for answer in later.values())


def test_what_runs_on_after_a_command_keeps_nobody_waiting_for_ever(session: HostSession, tmp_path: Path) -> None:
    # A detached child that keeps the output open, as a badly written script leaves one.
    pid_file = tmp_path / "pid"
    try:
        with pytest.raises(HostUnreachableError, match="timed out"):
            session.run(["sh", "-c", 'setsid sleep 3600 & echo $! >"$1"', "job", str(pid_file)], timeout_seconds=3)
        assert is_running(int(pid_file.read_text())), "it was waited for"
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
