"""The judge sees what is wrong: real load balancers and processes, put out of step one thing at a time."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import checker, paths, waiting
from lab.checker import Verdict, check
from lab.waiting import scaled
from tests.fixtures_estate import Estate
from tests.lab.failing_server import HOSTNAME, write_certificate

BALANCERS, HOSTS = ("lb1", "lb2"), ("app1", "app2")

HAPROXY = """
global
  stats socket {root}/run/haproxy/admin.sock mode 600 level admin
defaults
  mode http
  timeout client 5s
  timeout connect 1s
  timeout server 5s
frontend fe_https
  bind 127.0.0.1:{port} ssl crt {certificate}
  use_backend %[str(active),map({root}/etc/haproxy/maps/color.map,bk_none)]
frontend release_blue
  bind unix@{root}/blue.sock
  http-request return status 200 content-type application/json hdr X-Color blue hdr X-Release v1 string {blue}
frontend release_green
  bind unix@{root}/green.sock
  http-request return status 200 content-type application/json hdr X-Color green hdr X-Release v2 string {green}
backend bk_blue
  server app1 unix@{root}/blue.sock check inter 50ms
  server app2 unix@{root}/blue.sock check inter 50ms
backend bk_green
  server app1 unix@{root}/green.sock check inter 50ms
  server app2 unix@{root}/green.sock check inter 50ms
backend bk_none
  http-request return status 503
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def version(color: str, release: str) -> str:
    return json.dumps({"color": color, "release_id": release}).replace('"', '\\"').replace(" ", "\\ ")


@dataclass
class SmallEstate:
    """Two load balancers, and application processes that only have to be there."""

    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        ca_file, certificate = write_certificate(self.directory, HOSTNAME)
        urls = {}
        for name in BALANCERS:
            port = free_port()
            urls[name] = f"https://127.0.0.1:{port}"
            self._start_balancer(name, port, certificate)
        for host in HOSTS:
            for instance in range(2):
                self.start_process(f"{host}-{instance}", host, "blue", "v1")
        environment = {"hostname": HOSTNAME, "load_balancers": urls, "application_hosts": HOSTS}
        lab = {"ca_file": str(ca_file), "environments": {"production": environment}}
        (self.directory / "lab.json").write_text(json.dumps(lab))
        (self.directory / "production.yaml").write_text("application: {processes_per_host: 2}\n")
        for host in (*BALANCERS, *HOSTS):
            self.write(host, "var/deployment/current-color", "blue\n")
            self.write(host, "var/deployment/last-good-release", "v1\n")

    def _start_balancer(self, name: str, port: int, certificate: Path) -> None:
        root = self.directory / name
        self.write(name, "etc/haproxy/maps/color.map", "active bk_blue\n")
        (root / "run/haproxy").mkdir(parents=True)
        texts = {"blue": version("blue", "v1"), "green": version("green", "v2")}
        configuration = HAPROXY.format(root=root, port=port, certificate=certificate, **texts)
        (root / "haproxy.cfg").write_text(configuration)
        self.processes[name] = subprocess.Popen(["/usr/sbin/haproxy", "-f", str(root / "haproxy.cfg"), "-db"])
        waiting.until(lambda: waiting.accepts_connections("127.0.0.1", port), f"{name} listens")

    def start_process(self, name: str, host: str, color: str, release: str) -> None:
        directory = self.directory / host / "srv/sebenza/releases" / release
        directory.mkdir(parents=True, exist_ok=True)
        given = {"pm2_env": json.dumps({"name": f"sebenza-{color}"})}
        self.processes[name] = subprocess.Popen(["/bin/sleep", "600"], cwd=directory, env=given)

    def write(self, host: str, path: str, text: str) -> None:
        file = self.directory / host / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait(scaled(10))

    def command(self, balancer: str, command: str) -> None:
        assert checker.haproxy(balancer, command) == ""

    def switch(self, balancer: str, backend: str) -> None:
        self.command(balancer, f"set map {self.directory}/{balancer}/etc/haproxy/maps/color.map active {backend}")

    def switch_all(self, backend: str) -> None:
        for balancer in BALANCERS:
            self.switch(balancer, backend)

    def replace_process(self, name: str, host: str, color: str, release: str) -> None:
        self.end(name)
        self.start_process(name, host, color, release)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallEstate]:
    # Short: the path of a Unix socket has at most 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="judge-"))
    monkeypatch.setattr(paths, "RUN_DIR", directory)
    monkeypatch.setattr(paths, "LAB_FILE", directory / "lab.json")
    monkeypatch.setattr(paths, "ENVIRONMENTS_DIR", directory)
    estate = SmallEstate(directory)
    try:
        estate.start()
        yield estate
    finally:
        for name in list(estate.processes):
            estate.end(name)
        shutil.rmtree(directory)


def test_an_estate_in_order(small: SmallEstate):
    verdict = check()
    assert verdict.problems == []
    assert verdict.agrees
    assert verdict.exactly_one_live
    assert verdict.map_file_matches_runtime
    assert (verdict.live_color, verdict.release, verdict.marker) == ("blue", "v1", "blue")
    assert verdict.answers == {"lb1": {"blue v1": 10}, "lb2": {"blue v1": 10}}
    assert verdict.healthy_servers["lb1"] == {"blue": ["app1", "app2"], "green": ["app1", "app2"]}
    assert verdict.processes == {"app1": {"blue": 2, "green": 0}, "app2": {"blue": 2, "green": 0}}
    assert json.loads(json.dumps(verdict.as_json()))["exactly_one_live"] is True


def test_a_split(small: SmallEstate):
    small.switch("lb2", "bk_green")
    small.write("lb2", "etc/haproxy/maps/color.map", "active bk_green\n")
    verdict = check()
    assert not verdict.agrees
    assert not verdict.exactly_one_live
    assert verdict.live_color is None
    assert verdict.release is None
    assert any("disagree" in problem for problem in verdict.problems)


Break = Callable[[SmallEstate], None]
BREAKS: dict[str, tuple[Break, str]] = {
    "file behind the running map": (
        lambda estate: estate.switch_all("bk_green"),
        "lb1: the map file says blue, the running map green",
    ),
    "file ahead of the running map": (
        lambda estate: estate.write("lb2", "etc/haproxy/maps/color.map", "active bk_green\n"),
        "lb2: the map file says green, the running map blue",
    ),
    "map file missing": (
        lambda estate: (estate.directory / "lb1/etc/haproxy/maps/color.map").unlink(),
        "lb1: the map file says None",
    ),
    "unknown backend": (lambda estate: estate.switch("lb1", "bk_purple"), "lb1: no live color in its map"),
    "marker missing": (
        lambda estate: (estate.directory / "app2/var/deployment/current-color").unlink(),
        "app2: its marker says None",
    ),
    "marker garbage": (
        lambda estate: estate.write("app1", "var/deployment/current-color", "bl\xfce"),
        "app1: its marker says 'blüe'",
    ),
    "marker of another color": (
        lambda estate: estate.write("lb1", "var/deployment/current-color", "green\n"),
        "lb1: its marker says 'green', live is blue",
    ),
    "last good release differs": (
        lambda estate: estate.write("app1", "var/deployment/last-good-release", "v0\n"),
        "disagree on the last good release",
    ),
    "a server down": (
        lambda estate: estate.command("lb2", "disable server bk_blue/app1"),
        "lb2: app1 not healthy in the live color blue",
    ),
    "a load balancer dead": (lambda estate: estate.end("lb2"), "lb2: HAProxy's admin socket does not answer"),
    "a process dead": (
        lambda estate: estate.end("app1-0"),
        "app1: 1 processes of the live color blue, 2 expected",
    ),
    "a process of another release": (
        lambda estate: estate.replace_process("app2-0", "app2", "blue", "v0"),
        "app2: blue runs ['v0', 'v1'], not v1",
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_what_is_out_of_step_is_named(small: SmallEstate, broken: str):
    how, expected = BREAKS[broken]
    how(small)
    problems = check().problems
    assert any(expected in problem for problem in problems), problems


def test_nobody_answers(small: SmallEstate):
    for name in BALANCERS:
        small.end(name)
    verdict = check()
    assert verdict.live_color_by_lb == {"lb1": None, "lb2": None}
    assert not verdict.agrees
    assert not verdict.exactly_one_live
    assert len([problem for problem in verdict.problems if "a request through it failed" in problem]) == 2


def test_a_process_without_a_load_balancer_is_seen_too(small: SmallEstate):
    small.start_process("idle", "app1", "green", "v2")
    verdict = check()
    assert verdict.processes["app1"] == {"blue": 2, "green": 1}
    assert verdict.releases["app1"]["green"] == ["v2"]
    assert verdict.problems == []  # a warm idle color is in order


@pytest.mark.parametrize(
    ("colors", "agrees"),
    [
        ({"lb1": "blue", "lb2": "blue"}, True),
        ({"lb1": "blue", "lb2": "green"}, False),
        ({"lb1": "blue", "lb2": None}, False),
        ({"lb1": None, "lb2": None}, False),
        ({}, False),
    ],
)
def test_agreement(colors: dict[str, str | None], agrees: bool):
    assert Verdict("production", live_color_by_lb=colors).agrees is agrees


def test_the_judge_shares_no_code_with_the_procedures():
    listed = "import sys, lab.checker; print([name for name in sys.modules if name.startswith('sebenza_ops')])"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.lab
def test_the_lab_is_in_order(estate: Estate):
    verdict = check("production")
    assert verdict.exactly_one_live
    assert verdict.pm2["app1"][str(verdict.live_color)] == ["online", "online"]
    assert verdict.problems == []
