"""The load balancers' scripts against a real HAProxy: map, admin socket, reload and restart."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.haproxy import parse_probe
from tests.hosts.load_balancer import LoadBalancerUnderTest, load_balancer
from tests.hosts.scripts import run
from tests.systems.processes import LOOPBACK, free_port, until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def configured(short_dir: Path) -> Iterator[LoadBalancerUnderTest]:
    with load_balancer(short_dir) as balancer:
        yield balancer


@pytest.fixture(scope="module")
def started(configured: LoadBalancerUnderTest) -> Iterator[LoadBalancerUnderTest]:
    """One HAProxy for all tests that neither restart it nor need it dead."""
    configured.map_file.write_text("active bk_blue\n")
    with configured.running():
        yield configured


@pytest.fixture
def balancer(started: LoadBalancerUnderTest) -> LoadBalancerUnderTest:
    """Blue is live, by map, file and marker; whatever a test before did."""
    started.token += 1
    assert started.switch("bk_blue").returncode == 0
    assert started.persist("blue").returncode == 0
    return started


def test_state_tells_map_file_marker_and_counters(balancer: LoadBalancerUnderTest, shell: str) -> None:
    before = balancer.state()
    assert [balancer.color() for _ in range(3)] == ["blue"] * 3
    assert "== map" in balancer.state_text(shell)
    state = balancer.state()
    assert (state.runtime_backend, state.file_backend, state.marker) == ("bk_blue", "bk_blue", "blue")
    assert state.backend("bk_blue").requests_total - before.backend("bk_blue").requests_total == 3
    assert state.backend("bk_green").requests_total == before.backend("bk_green").requests_total
    assert [server.name for server in state.backend("bk_green").servers] == ["app1", "app2"]
    assert state.backend("bk_green").servers_up == 2
    assert f"Pid: {state.process_id}" == balancer.worker()
    assert state.version.startswith("2.")


def test_health_checks_are_not_counted_as_requests(balancer: LoadBalancerUnderTest) -> None:
    before = balancer.state().backend("bk_green").requests_total
    uptime = balancer.state().uptime_seconds
    until(lambda: balancer.state().uptime_seconds >= uptime + 2, "two rounds of health checks are over")
    assert balancer.state().backend("bk_green").requests_total == before, "the bake would see traffic without users"


def test_switch_moves_new_requests_and_reads_back(balancer: LoadBalancerUnderTest, shell: str) -> None:
    done = balancer.switch("bk_green", shell=shell)
    assert (done.returncode, done.stdout) == (0, "bk_green\n"), done.stderr
    assert balancer.color() == "green"
    assert balancer.state().runtime_backend == "bk_green"
    assert balancer.map_file.read_text() == "active bk_blue\n", "a switch must leave the file alone: it comes later"
    assert balancer.switch("bk_green", shell=shell).returncode == 0, "a repeated switch must be harmless"


@pytest.mark.parametrize("backend", ["bk_purple", "bk_gree", "app1", "", "bk_green bk_blue", "bk_green;shutdown"])
def test_switch_refuses_what_is_no_backend(balancer: LoadBalancerUnderTest, backend: str) -> None:
    done = balancer.switch(backend)
    assert done.returncode == 1, f"HAProxy takes an unknown name silently and answers 503: {done}"
    assert f"HAProxy has no backend {backend}" in done.stderr
    assert balancer.state().runtime_backend == "bk_blue"
    assert balancer.color() == "blue"


def test_switch_refuses_a_zombie(balancer: LoadBalancerUnderTest) -> None:
    balancer.token += 5
    assert run("fence_raise", *balancer.fenced()).returncode == 0
    balancer.token -= 1
    assert balancer.switch("bk_green").returncode == 77
    assert balancer.color() == "blue", "a zombie moved the traffic"
    assert balancer.persist("green").returncode == 77
    balancer.token += 1


def test_switch_says_that_the_socket_is_dead(balancer: LoadBalancerUnderTest, tmp_path: Path) -> None:
    nowhere = tmp_path / "admin.sock"
    done = run("lb_switch", *balancer.fenced(), nowhere, balancer.map_file, "active", "bk_green")
    assert done.returncode == 1
    assert f"admin socket {nowhere} does not answer" in done.stderr
    assert "no backend" not in done.stderr, "it blames the configuration for a dead process"


def test_switch_says_that_the_map_is_another(balancer: LoadBalancerUnderTest, tmp_path: Path) -> None:
    done = run("lb_switch", *balancer.fenced(), balancer.socket, tmp_path / "other.map", "active", "bk_green")
    assert done.returncode == 1
    assert "HAProxy refused" in done.stderr
    assert balancer.color() == "blue"


def test_state_of_a_dead_socket_is_no_data(balancer: LoadBalancerUnderTest, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from sebenza_ops.systems.haproxy import parse_state

    done = run("lb_state", tmp_path / "admin.sock", balancer.map_file, balancer.marker_file)
    with pytest.raises(NoDataError, match="does HAProxy run"):
        parse_state("lb1", done.stdout, "active", datetime.now(UTC))


@pytest.mark.parametrize(
    ("content", "marker", "file_backend"),
    [
        (None, None, None),
        ("", "", None),
        ("\0\xff garbage == map\n", "\0\xff garbage", None),
        ("active\n", "blue\ngreen", None),
        ("# active bk_green\nother bk_green\nactive   bk_blue\n", "purple", "bk_blue"),
    ],
)
def test_state_survives_whatever_files_hold(
    balancer: LoadBalancerUnderTest, content: str | None, marker: str | None, file_backend: str | None, shell: str
) -> None:
    for path, text in ((balancer.map_file, content), (balancer.marker_file, marker)):
        path.unlink()
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
    balancer.state_text(shell)
    state = balancer.state()
    assert state.runtime_backend == "bk_blue", "files must not hide what the running process does"
    assert state.file_backend == file_backend
    assert (state.marker is None) == (marker is None), f"marker {marker!r} was read as {state.marker!r}"
    assert state.marker not in ("blue", "green")


def test_persist_refuses_to_be_ahead_of_the_running_process(balancer: LoadBalancerUnderTest, shell: str) -> None:
    done = balancer.persist("green", shell=shell)
    assert done.returncode == 1, "the next reload would switch silently"
    assert "sends traffic to 'bk_blue', not to bk_green: nothing persisted" in done.stderr
    assert balancer.map_file.read_text() == "active bk_blue\n"
    assert balancer.marker_file.read_text() == "blue\n"


def test_persist_writes_file_and_marker_whole(balancer: LoadBalancerUnderTest, shell: str) -> None:
    balancer.switch("bk_green")
    assert balancer.persist("green", shell=shell).returncode == 0
    assert balancer.map_file.read_text() == "active bk_green\n"
    assert balancer.marker_file.read_text() == "green\n"
    assert [path.name for path in balancer.map_file.parent.iterdir()] == ["color.map"], "temporary files were left"


def test_a_switch_that_was_not_persisted_is_lost_at_a_reload(balancer: LoadBalancerUnderTest) -> None:
    balancer.switch("bk_green")
    balancer.reload()
    assert balancer.color() == "blue", "then persisting would prove nothing"


def test_a_persisted_switch_survives_a_reload(balancer: LoadBalancerUnderTest) -> None:
    balancer.switch("bk_green")
    balancer.persist("green")
    before = balancer.state().process_id
    balancer.reload()
    state = balancer.state()
    assert state.process_id != before, "there was no reload"
    assert (state.runtime_backend, balancer.color()) == ("bk_green", "green")


def test_probe_reports_status_and_body_of_every_url(balancer: LoadBalancerUnderTest, shell: str) -> None:
    blue, green, nobody = balancer.ports["blue"], balancer.ports["green"], free_port()
    urls = [
        f"http://{LOOPBACK}:{blue}/version",
        f"http://{LOOPBACK}:{green}/bad",
        f"http://{LOOPBACK}:{nobody}/version",
        f"http://{LOOPBACK}:{green}/host",
        f"http://{LOOPBACK}:{green}/long",
    ]
    done = run("lb_probe", 2, "app.sebenza.com", *urls, shell=shell)
    assert done.returncode == 0, done.stderr
    answers = parse_probe(done.stdout)
    assert [answers[url][0] for url in urls] == [200, 503, 0, 200, 200]
    assert [answers[url][1] for url in urls[:4]] == ["blue", "green", "", "app.sebenza.com"]
    assert len(answers[urls[4]][1]) == 16384, "a long body must be cut, or it would fill the session"
    assert base64.b64encode(b"blue").decode() in done.stdout, "a body must travel encoded: it may hold line ends"


def test_warm_up_counts_what_answered(balancer: LoadBalancerUnderTest, shell: str) -> None:
    base = f"http://{LOOPBACK}:{balancer.ports['green']}"
    for urls, expected in [
        ([f"{base}/a", f"{base}/missing", f"{base}/redirect"], "15 0\n"),
        ([f"{base}/a", f"{base}/bad"], "5 5\n"),
        ([f"http://{LOOPBACK}:{free_port()}/a"], "0 5\n"),
    ]:
        done = run("lb_warm", 5, "app.sebenza.com", *urls, shell=shell)
        assert (done.returncode, done.stdout) == (0, expected), f"{urls}: {done}"
    assert run("lb_warm", 0, "app.sebenza.com", f"{base}/a", shell=shell).stdout == "0 0\n"


@pytest.fixture
def own_balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadBalancerUnderTest]:
    """A HAProxy of the test's own, to restart."""
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="sebenza-"))
    with load_balancer(directory) as balancer:
        yield balancer
    shutil.rmtree(directory)


def test_a_persisted_switch_survives_a_restart(own_balancer: LoadBalancerUnderTest) -> None:
    own_balancer.map_file.write_text("active bk_blue\n")
    with own_balancer.running():
        assert own_balancer.switch("bk_green").returncode == 0
        assert own_balancer.persist("green").returncode == 0
    assert not own_balancer.answers(), "HAProxy still runs"
    with own_balancer.running():
        assert own_balancer.color() == "green"


@pytest.mark.parametrize("content", ["", "other bk_blue\n"])
def test_a_map_without_the_key_can_be_set_again(own_balancer: LoadBalancerUnderTest, content: str) -> None:
    own_balancer.map_file.write_text(content)
    with own_balancer.running():
        assert own_balancer.state().runtime_backend is None
        assert "no live color" in own_balancer.color(), "without an entry nobody may guess a color"
        done = own_balancer.switch("bk_green")
        assert (done.returncode, done.stdout) == (0, "bk_green\n"), f"no way out of an empty map: {done.stderr}"
        assert own_balancer.color() == "green"
        assert own_balancer.persist("green").returncode == 0
        own_balancer.reload()
        assert own_balancer.color() == "green"


def test_a_file_ahead_of_the_process_switches_at_the_next_reload(own_balancer: LoadBalancerUnderTest) -> None:
    own_balancer.map_file.write_text("active bk_blue\n")
    with own_balancer.running():
        own_balancer.map_file.write_text("active bk_green\n")
        state = own_balancer.state()
        assert (state.runtime_backend, state.file_backend) == ("bk_blue", "bk_green"), "the trap is not even seen"
        own_balancer.reload()
        assert own_balancer.color() == "green", "then lb_persist's order would not matter"


@pytest.fixture
def in_rotation(balancer: LoadBalancerUnderTest) -> Iterator[LoadBalancerUnderTest]:
    """Both of blue's servers are up; and again afterwards."""
    until(lambda: set(balancer.statuses().values()) == {"UP"}, "both servers are up")
    yield balancer
    for name in ("app1", "app2"):
        balancer.command(f"set server bk_blue/{name} state ready")


def test_a_drained_server_gets_no_request_until_it_is_ready(in_rotation: LoadBalancerUnderTest, shell: str) -> None:
    done = in_rotation.rotate("drain", "app1", shell=shell)
    assert done.returncode == 0, done.stderr
    assert in_rotation.statuses() == {"app1": "DRAIN", "app2": "UP"}
    before = in_rotation.state().backend("bk_blue")
    assert [in_rotation.color() for _ in range(4)] == ["blue"] * 4
    after = in_rotation.state().backend("bk_blue")
    grown = [now.requests_total - then.requests_total for then, now in zip(before.servers, after.servers, strict=True)]
    assert grown == [0, 4]
    assert in_rotation.rotate("ready", "app1", shell=shell).returncode == 0
    assert in_rotation.statuses() == {"app1": "UP", "app2": "UP"}


def test_the_minimum_stays_in_rotation(in_rotation: LoadBalancerUnderTest, shell: str) -> None:
    done = in_rotation.rotate("drain", "app1", "app2", shell=shell)
    assert done.returncode == 1
    assert "only 0 servers of bk_blue would be in rotation, 1 are the minimum" in done.stderr
    assert in_rotation.rotate("drain", "app1", shell=shell).returncode == 0
    assert in_rotation.rotate("drain", "app2", shell=shell).returncode == 1
    assert in_rotation.statuses() == {"app1": "DRAIN", "app2": "UP"}
    # Again is no other thing: a task that was killed does it twice.
    assert in_rotation.rotate("drain", "app1", shell=shell).returncode == 0


def test_what_people_took_out_stays_out(in_rotation: LoadBalancerUnderTest, shell: str) -> None:
    in_rotation.command("set server bk_blue/app1 state maint")
    for state in ("drain", "ready"):
        done = in_rotation.rotate(state, "app1", minimum=0, shell=shell)
        assert done.returncode == 1
        assert "is in maintenance (MAINT)" in done.stderr
    assert in_rotation.statuses()["app1"] == "MAINT"


@pytest.mark.parametrize("server", ["app9", "", "app1 app2", "app1;shutdown"])
def test_a_server_that_haproxy_does_not_have_is_refused(in_rotation: LoadBalancerUnderTest, server: str) -> None:
    done = in_rotation.rotate("drain", server)
    assert done.returncode == 1
    assert f"HAProxy has no server bk_blue/{server}" in done.stderr
    assert set(in_rotation.statuses().values()) == {"UP"}


def test_a_lower_token_moves_no_server(in_rotation: LoadBalancerUnderTest) -> None:
    in_rotation.token += 1
    assert in_rotation.rotate("drain", "app1").returncode == 0
    in_rotation.token -= 1
    assert in_rotation.rotate("ready", "app1").returncode == 77
    in_rotation.token += 1
    assert in_rotation.statuses()["app1"] == "DRAIN"
