"""What hosts answer becomes values, or no data: never zeros that nobody has measured."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sebenza_ops.systems.application_hosts import parse_state as parse_host
from sebenza_ops.systems.build_host import BuildStatus, parse_status
from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.fencing import SeenToken, parse_seen_token
from sebenza_ops.systems.haproxy import parse_map_value, parse_probe, parse_sections, parse_stat, parse_state

NOW = datetime(2026, 3, 1, tzinfo=UTC)
COLUMNS = "pxname,svname,qcur,scur,stot,status,hrsp_5xx,type,rtime,"
ROWS = """\
# pxname,svname,qcur,scur,stot,status,hrsp_5xx,type,rtime,
fe_https,FRONTEND,,3,90,OPEN,0,0,,
bk_blue,app1,0,1,40,UP,1,2,12,
bk_blue,app2,0,1,41,UP 1/2,1,2,14,
bk_blue,BACKEND,2,2,81,UP,2,1,13,
bk_green,app1,0,0,0,DOWN,0,2,,
bk_green,app2,0,0,0,MAINT,0,2,,
bk_green,BACKEND,0,0,0,DOWN,0,1,,
"""
STATE = f"""\
== map
0x55d0c0ffee active bk_blue
== stat
{ROWS}
== info
Version: 2.6.12
Pid: 4711
Uptime_sec: 60
== file
active bk_green
== marker
green
"""


def test_statistics_become_backends_with_their_servers() -> None:
    blue, green = parse_stat(ROWS)["bk_blue"], parse_stat(ROWS)["bk_green"]
    assert (blue.requests_total, blue.responses_5xx, blue.sessions_current, blue.queue_current) == (81, 2, 2, 2)
    assert [(server.name, server.is_up) for server in blue.servers] == [("app1", True), ("app2", True)]
    assert (green.servers_up, green.response_time_ms) == (0, 0)
    assert set(parse_stat(ROWS)) == {"bk_blue", "bk_green"}, "a frontend was taken for a backend"


@given(st.integers(0, len(ROWS) - 1))
def test_statistics_that_are_cut_off_anywhere_are_never_misread(length: int) -> None:
    whole = parse_stat(ROWS)
    for name, backend in parse_stat(ROWS[:length]).items():
        assert backend == whole[name], f"cut after {length} characters, {name} has other numbers"


@pytest.mark.parametrize("text", ["", "\n", "Permission denied", "# \n", "a,b\n1,2\n", "Unknown command"])
def test_what_is_no_statistics_is_empty(text: str) -> None:
    assert parse_stat(text) == {}


def test_a_state_keeps_runtime_file_and_marker_apart() -> None:
    state = parse_state("lb1", STATE, "active", NOW)
    assert (state.runtime_backend, state.file_backend, state.marker) == ("bk_blue", "bk_green", "green")
    assert (state.process_id, state.uptime_seconds, state.version) == (4711, 60, "2.6.12")
    with pytest.raises(NoDataError, match="lb1: HAProxy reports no backend bk_red"):
        state.backend("bk_red")


@pytest.mark.parametrize("text", ["", STATE[:40], "== stat\n== info\nPid: 1\n"])
def test_a_state_without_statistics_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match=r"lb1: .*gave no statistics"):
        parse_state("lb1", text, "active", NOW)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("active bk_blue", "bk_blue"),
        ("0x5 active bk_blue", "bk_blue"),
        ("# active bk_red\nother bk_red\n  active\tbk_blue  \n", "bk_blue"),
        ("active bk_blue\nactive bk_green", "bk_blue"),
        ("", None),
        ("active", None),
        ("active bk_blue extra", None),
        ("Unknown map identifier. Please use #<id> or <file>.", None),
        ("ACTIVE bk_blue", None),
    ],
)
def test_map_values(text: str, value: str | None) -> None:
    assert parse_map_value(text, "active") == value


def test_sections_begin_with_their_name() -> None:
    assert parse_sections("lost\n== a\n1\n\n2\n== b\n== c\n\n") == {"a": "1\n\n2", "b": "", "c": ""}


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_probes_tell_status_and_body() -> None:
    text = f"http://a/1 200 {encoded(b'x y')}\nhttp://a/2 000 \nhttp://a/3 503 {encoded(bytes([255]))}\n"
    assert parse_probe(text) == {"http://a/1": (200, "x y"), "http://a/2": (0, ""), "http://a/3": (503, "\ufffd")}


@pytest.mark.parametrize("text", ["", "\n\n", "http://a/1", "http://a/1 ", "http://a/1 abc ", "http://a/1 200 a=b"])
def test_a_probe_that_is_cut_off_is_no_answer(text: str) -> None:
    assert parse_probe(text) == {}


PROCESSES = [
    {"name": "sebenza-blue", "pid": 5, "status": "online", "restarts": 0, "cwd": "/srv/releases/v1-a/"},
    {"name": "sebenza-blue", "pid": 6, "status": "online", "restarts": 2, "cwd": "/srv/releases/v1-a"},
    {"name": "sebenza-green", "pid": 0, "status": "errored", "restarts": 15, "cwd": "/srv/releases/v2-b"},
]


def host_text(processes: object, disk: str = "2048", marker: str = "blue", last_good: str = "!missing") -> str:
    listed = processes if isinstance(processes, str) else json.dumps(processes)
    return (
        f"== processes\n{listed}\n== releases\nv1-a\nv2-b\n== disk\n{disk}\n== marker\n{marker}\n"
        f"== last_good\n{last_good}\n"
    )


def test_a_host_tells_processes_releases_and_space() -> None:
    state = parse_host("app1", host_text(PROCESSES))
    assert state.releases == ("v1-a", "v2-b")
    assert state.free_bytes == 2048 * 1024
    assert (state.marker, state.last_good_release) == ("blue", None)
    assert state.release_of("sebenza-blue") == "v1-a"
    assert state.release_of("sebenza-green") is None, "an errored process runs no release"
    assert [process.pid for process in state.online("sebenza-blue")] == [5, 6]


def test_processes_of_two_releases_are_none_that_can_be_named() -> None:
    mixed = [PROCESSES[0], {**PROCESSES[1], "cwd": "/srv/releases/v2-b"}]
    assert parse_host("app1", host_text(mixed)).release_of("sebenza-blue") is None


def test_no_daemon_is_not_no_process() -> None:
    assert parse_host("app1", host_text("!no-daemon")).processes is None
    assert parse_host("app1", host_text([])).processes == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        host_text(""),
        host_text("{"),
        host_text("{}x"),
        host_text([{"pid": 1}]),
        host_text(["a"]),
        host_text("5"),
        host_text([], disk=""),
        host_text([], disk="much"),
        host_text([{**PROCESSES[0], "pid": "x"}]),
    ],
)
def test_a_host_that_cannot_be_read_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match="app1: its state could not be read"):
        parse_host("app1", text)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('done\n{"sha": "a"}', BuildStatus("done", result={"sha": "a"})),
        ("failed\nline 1\nline 2\n", BuildStatus("failed", log_tail="line 1\nline 2")),
        ("running\n", BuildStatus("running")),
        ("absent\n", BuildStatus("absent")),
    ],
)
def test_build_status(text: str, status: BuildStatus) -> None:
    assert parse_status(text, "build") == status


@pytest.mark.parametrize("text", ["", "\n", "bash: flock: not found\n", "done\n", 'done\n{"sha": '])
def test_a_build_status_that_is_none_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match=r"build: .*can't be read"):
        parse_status(text, "build")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("0\n", SeenToken(0)),
        ("12 dag/run 2026-03-01T00:00:00Z\n", SeenToken(12, "dag/run", "2026-03-01T00:00:00Z")),
        ("12 dag/run when and more\n", SeenToken(12, "dag/run", "when")),
    ],
)
def test_seen_tokens(text: str, seen: SeenToken) -> None:
    assert parse_seen_token("app1", text) == seen


@pytest.mark.parametrize("text", ["", "\n", "garbage", "-1", "1.5", "²", "x 5"])
def test_an_unreadable_token_is_no_data(text: str) -> None:
    with pytest.raises(NoDataError, match="app1: unreadable fence file"):
        parse_seen_token("app1", text)
