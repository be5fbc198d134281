"""Faults break what they say, nothing else, and mending puts it right."""

from __future__ import annotations

import subprocess
import time
from types import ModuleType

import psutil
import pytest

from lab import application_hosts, damage, haproxy, kernel, remote, supervision
from lab.addresses import HTTPS_PORT, address
from lab.waiting import scaled, until
from tests.fixtures_estate import Estate


def _status(host: str) -> str:
    done = subprocess.run(
        ["curl", "--silent", "--insecure", "--max-time", "2", "--output", "/dev/null", "--write-out", "%{http_code}",
         "--header", "Host: app.sebenza.com", f"https://{address(host)}:{HTTPS_PORT}/version"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


def test_a_killed_service_stays_dead_until_mended(estate: Estate, faults: ModuleType) -> None:
    with faults.kill("lb2", "haproxy"):
        assert _status("lb2") == "000"
        assert _status("lb1") == "200"
        assert supervision.state("lb2", "haproxy").pid == 0
    assert _status("lb2") != "000"
    assert faults.active() == []


def test_a_killed_service_that_may_come_back_does(estate: Estate, faults: ModuleType) -> None:
    before = haproxy.worker_pid("lb2")
    faults.kill("lb2", "haproxy", comes_back=True)
    supervision.await_listening("lb2", "haproxy")
    assert haproxy.worker_pid("lb2") != before


def test_a_killed_host_takes_everything_with_it_also_detached_jobs(estate: Estate, faults: ModuleType) -> None:
    started = estate.shell("app3", ["sh", "-c", "setsid sleep 1234 >/dev/null 2>&1 </dev/null & echo $!"])
    job = int(started.stdout)
    assert psutil.pid_exists(job)
    with faults.kill("app3"):
        until(lambda: not psutil.pid_exists(job), "the detached job is dead", 5)
        assert not supervision.is_up("app3")
        assert estate.shell("app3", ["true"]).returncode == 255
    assert estate.shell("app3", ["true"]).returncode == 0


def test_a_cut_stops_also_what_is_connected(estate: Estate, faults: ModuleType) -> None:
    endless = remote.ssh_command("lb2", ["sh", "-c", "while :; do echo x; done"])
    running = subprocess.Popen(endless, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert running.stdout is not None
    assert running.stdout.read(2) == b"x\n"
    with faults.cut("lb2", "ssh", reset=True):
        assert _status("lb2") == "200"
        while running.stdout.read(65536):
            pass
        assert running.wait(timeout=scaled(10)) == 255
        assert estate.shell("lb2", ["true"]).returncode == 255
    assert estate.shell("lb2", ["true"]).returncode == 0


def test_a_full_disk_keeps_what_is_there_and_takes_nothing_more(estate: Estate, faults: ModuleType) -> None:
    releases = str(estate.root("app2") / "srv/sebenza/releases")
    before = estate.shell("app2", ["ls", releases]).stdout
    with faults.fill_disk("app2"):
        assert estate.shell("app2", ["ls", releases]).stdout == before
        full = estate.shell("app2", ["sh", "-c", f"echo something >{releases}/new"])
        assert full.returncode != 0
        assert application_hosts.is_healthy("app2", "blue")
        estate.shell("app2", ["rm", "-f", f"{releases}/new"])
    assert estate.shell("app2", ["ls", releases]).stdout == before
    assert kernel.mounts() == []


DELAY_SECONDS = 2.0


def test_a_slow_port_is_slow(estate: Estate, faults: ModuleType) -> None:
    def seconds() -> float:
        start = time.monotonic()
        assert application_hosts.version_answer("app2", "blue") is not None
        return time.monotonic() - start

    def is_quick() -> bool:
        return seconds() < DELAY_SECONDS

    # A delayed answer never comes sooner; another one does at some time, on a busy machine too.
    until(is_quick, "an answer comes sooner than a delayed one")
    with faults.slow("app2", 8001, DELAY_SECONDS):
        assert seconds() >= DELAY_SECONDS
    until(is_quick, "an answer comes sooner than a delayed one")


def test_a_color_dies_and_stays_dead(estate: Estate, faults: ModuleType) -> None:
    with faults.kill("app2", "blue"):
        assert application_hosts.version_answer("app2", "blue") is None
        assert {each["status"] for each in application_hosts.processes("app2")} == {"stopped"}
    until(lambda: application_hosts.is_healthy("app2", "blue"), "blue is healthy again on app2", 20)
    haproxy.await_servers("lb1", "bk_blue")


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "wrong"])
@pytest.mark.parametrize("target", ["marker", "map", "map-in-memory"])
def test_corruption_is_mended(estate: Estate, faults: ModuleType, target: str, how: str) -> None:
    before = damage.read("lb2", target)
    with faults.corrupt("lb2", target, how):
        assert damage.read("lb2", target) != before
        if target != "map-in-memory":
            assert _status("lb2") == "200"
    assert damage.read("lb2", target) == before


def test_mending_leaves_what_was_repaired_meanwhile(estate: Estate, faults: ModuleType) -> None:
    before = damage.read("app2", "marker")
    with faults.corrupt("app2", "marker", "garbage"):
        damage.write("app2", "marker", "green\n")
    assert damage.read("app2", "marker") == "green\n"
    damage.write("app2", "marker", before)


def test_haproxy_reload_and_restart(estate: Estate, faults: ModuleType) -> None:
    for action in (faults.reload_haproxy, faults.restart_haproxy):
        before = haproxy.worker_pid("lb2")
        action("lb2")
        assert haproxy.worker_pid("lb2") != before
        haproxy.await_servers("lb2", "bk_blue")
        assert _status("lb2") == "200"
