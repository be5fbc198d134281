"""The scripts that start, stop and look at PM2's processes, against a real PM2 daemon."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.waiting import scaled
from sebenza_ops.systems.application_hosts import ApplicationHostState, parse_state
from tests.hosts.scripts import command, run
from tests.systems.processes import descendants, is_running, server, until

pytestmark = pytest.mark.integration

PM2_PACKAGE = Path(__file__).resolve().parents[2] / "lab" / "node" / "node_modules" / "pm2"
PM2 = PM2_PACKAGE / "bin" / "pm2"
NODE = shutil.which("node") or "/usr/bin/node"
APPLICATION = "process.on('SIGINT', () => process.exit(0)); setInterval(() => {}, 1000); process.send('ready')"


class Pm2Host:
    """An application host: its directories, and PM2's daemon when it runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.home = directory / "pm2"
        self.home.mkdir()
        self.releases, self.colors, self.markers = directory / "releases", directory / "colors", directory / "markers"
        self.colors.joinpath("green").mkdir(parents=True)
        self.fenced = [directory / "state", "production", 1, "dag/run"]

    def add_release(self, name: str) -> None:
        """A release, and green's PM2 file for it, with a secret where a careless one has it."""
        release = self.releases / name
        release.mkdir(parents=True)
        (release / "server.js").write_text(APPLICATION)
        (release / "release.json").write_text("{}")
        app = {
            "name": "sebenza-green",
            "cwd": str(release),
            "script": "server.js",
            "wait_ready": True,
            "env": {"DATABASE_URL": "TOPSECRET"},
        }
        ecosystem = f"module.exports = {json.dumps({'apps': [app]})}"
        (self.colors / "green" / "ecosystem.config.js").write_text(ecosystem)

    def start(self, shell: str = "dash") -> subprocess.CompletedProcess[str]:
        node_dir = Path(NODE).parent
        arguments = [*self.fenced, self.colors, "green", node_dir, self.home, PM2, "sebenza-green"]
        return run("app_start", *arguments, shell=shell)

    def stop(self, shell: str = "dash", pm2: Path = PM2) -> subprocess.CompletedProcess[str]:
        return run("app_stop", *self.fenced, Path(NODE).parent, self.home, pm2, "sebenza-green", shell=shell)

    def prune(self, *names: str, shell: str = "dash") -> subprocess.CompletedProcess[str]:
        arguments = [*self.fenced, Path(NODE).parent, self.home, PM2, self.releases, *names]
        return run("app_prune", *arguments, shell=shell)

    def state_text(self, shell: str = "dash") -> str:
        arguments = [Path(NODE).parent, self.home, PM2, self.releases, self.colors, self.markers]
        done = run("app_state", *arguments, shell=shell)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self, shell: str = "dash") -> ApplicationHostState:
        return parse_state("app1", self.state_text(shell))


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Pm2Host:
    # A short path: PM2's sockets are in it (unix(7): 107 bytes).
    return Pm2Host(tmp_path_factory.mktemp("p"))


@pytest.fixture(scope="module")
def running_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pm2Host]:
    host = Pm2Host(tmp_path_factory.mktemp("p"))
    environment = {"PM2_HOME": str(host.home), "HOME": str(host.directory)}
    sockets = [host.home / "rpc.sock", host.home / "pub.sock"]
    argv = [NODE, str(PM2_PACKAGE / "lib" / "Daemon.js")]
    log = host.directory / "daemon.log"
    with server(argv, log, lambda: all(path.exists() for path in sockets), environment=environment):
        yield host


def test_a_color_is_started_seen_replaced_and_stopped(running_host: Pm2Host, shell: str) -> None:
    host = running_host
    for release in (f"v1.0.0-{shell}", f"v1.1.0-{shell}"):
        host.add_release(release)
        started = host.start(shell)
        assert started.returncode == 0, started.stderr
        state = host.state(shell)
        # PM2's own reload would keep the old working directory.
        assert state.release_of("sebenza-green") == release, f"it runs {state.processes}"
        assert release in state.releases
        assert state.free_bytes > 0
        assert "TOPSECRET" not in host.state_text(shell), "secrets of PM2's dump left the host"
    (process,) = host.state(shell).online("sebenza-green")
    stopped = host.stop(shell)
    assert stopped.returncode == 0, stopped.stderr
    assert host.state(shell).processes == ()
    until(lambda: not is_running(process.pid), "the stopped process has ended")
    assert host.stop(shell).returncode == 0, "stopping what does not run must be harmless"


def test_a_stop_that_pm2_could_not_do_is_no_success(running_host: Pm2Host) -> None:
    broken = running_host.directory / "broken-pm2.js"
    broken.write_text("console.error('[PM2][ERROR] EPIPE'); process.exit(1)")
    stopped = running_host.stop(pm2=broken)
    assert stopped.returncode != 0
    assert "could not stop sebenza-green, it may still run: [PM2][ERROR] EPIPE" in stopped.stderr


def test_old_releases_go_and_what_runs_stays(running_host: Pm2Host, shell: str) -> None:
    host = running_host
    names = [f"v3.{number}.0-{shell}" for number in range(3)]
    for name in names:
        host.add_release(name)
    assert host.start(shell).returncode == 0
    done = host.prune(names[0], names[2], "v9.9.9-none", shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [names[0]], "the release that a process runs from was asked for, too"
    left = [name for name in host.state(shell).releases if name in names]
    assert set(left) == {names[1], names[2]}
    assert host.stop(shell).returncode == 0


@pytest.mark.parametrize("name", ["", "..", ".", "../releases", "/etc", ".pruned-x"])
def test_what_is_no_release_is_not_removed(running_host: Pm2Host, name: str) -> None:
    kept = running_host.releases / "v4.0.0-kept"
    kept.mkdir(parents=True, exist_ok=True)
    done = running_host.prune(name)
    assert done.returncode == 1
    assert "is no release" in done.stderr
    assert kept.is_dir()


def test_the_newest_release_is_told_first(host: Pm2Host, shell: str) -> None:
    for age, name in enumerate(("v1.2.0-c", "v1.0.0-a", "v1.1.0-b")):
        host.add_release(name)
        os.utime(host.releases / name, (1_000_000 - age, 1_000_000 - age))
    assert host.state(shell).releases == ("v1.2.0-c", "v1.0.0-a", "v1.1.0-b")


def test_a_zombie_neither_starts_nor_stops(running_host: Pm2Host) -> None:
    running_host.add_release("v2.0.0-zombie")
    assert running_host.start().returncode == 0
    assert run("fence_raise", running_host.fenced[0], "production", 5, "later").returncode == 0
    assert running_host.stop().returncode == 77
    assert running_host.start().returncode == 77
    assert len(running_host.state().online("sebenza-green")) == 1
    running_host.fenced[2] = 6
    assert running_host.stop().returncode == 0


def test_the_files_of_the_host_are_told(running_host: Pm2Host, shell: str) -> None:
    running_host.markers.mkdir(exist_ok=True)
    marker = running_host.markers / "current-color"
    marker.write_text("green\n")
    state = running_host.state(shell)
    assert (state.marker, state.last_good_release) == ("green", None)
    marker.unlink()


def node_processes() -> set[int]:
    """Node.js and PM2 below this test run. Servers of other tests come and go with workers of their own."""
    found = set()
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/comm").read_text()
            if name.startswith(("node", "PM2")):
                found.add(pid)
    return found


def leave_socket(host: Pm2Host) -> None:
    """What a daemon that was killed leaves: a socket that nobody answers."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(host.home / "rpc.sock"))


@pytest.mark.parametrize("pid", [None, "", "0", "garbage", "-1", "ended"])
@pytest.mark.parametrize("with_socket", [True, False])
def test_asking_a_host_without_a_daemon_never_starts_one(
    host: Pm2Host, pid: str | None, with_socket: bool, shell: str
) -> None:
    if with_socket:
        leave_socket(host)
    if pid == "ended":
        ended = subprocess.Popen(["true"])
        ended.wait()
        pid = str(ended.pid)
    if pid is not None:
        (host.home / "pm2.pid").write_text(pid)
    before = node_processes()
    host.add_release("v1.0.0-a")
    assert host.state(shell).processes is None
    for done in (host.start(shell), host.stop(shell)):
        assert done.returncode == 1, "a daemon outside of its service was started"
        assert "PM2's daemon does not run here" in done.stderr
    assert not (host.home / "pm2.log").exists(), "PM2 was asked, and has started a daemon"
    assert node_processes() <= before


def test_no_releases_yet(host: Pm2Host, shell: str) -> None:
    assert host.state(shell).releases == ()


def test_rests_of_installations_are_no_releases(host: Pm2Host, shell: str) -> None:
    for name in (".install-abc", ".replaced-v1", "v1.0.0-a", "half"):
        (host.releases / name).mkdir(parents=True)
        if name != "half":
            (host.releases / name / "release.json").write_text("{}")
    assert host.state(shell).releases == ("v1.0.0-a",)


MIGRATE = """
const fs = require('node:fs')
fs.appendFileSync(process.env.LOG, process.argv.slice(2).join(' ') + '\\n')
const pause = new Int32Array(new SharedArrayBuffer(4))
while (!fs.existsSync('go')) Atomics.wait(pause, 0, 0, 20)
process.exit(Number(fs.readFileSync('go', 'utf8')))
"""


def migration(host: Pm2Host, token: int) -> list[object]:
    release = host.directory / "release"
    (release / "bin").mkdir(parents=True, exist_ok=True)
    (release / "bin" / "migrate.js").write_text(MIGRATE)
    # Node.js 20 looks for the file too, wherever the option stands.
    (release / "app.env").touch()
    fenced = [host.fenced[0], "production", token, "dag/run"]
    return [*fenced, release, release / "app.env", Path(NODE).parent, "expand", 5000, 60000]


def test_nobody_changes_the_host_while_a_migration_runs(host: Pm2Host, monkeypatch: pytest.MonkeyPatch) -> None:
    log = host.directory / "log"
    monkeypatch.setenv("LOG", str(log))
    first = subprocess.Popen(command("dash", "app_migrate", migration(host, 1)), start_new_session=True)
    try:
        until(log.exists, "the migration runs")
        locked = subprocess.run(["flock", "-n", f"{host.fenced[0]}/fence-production.lock", "true"], check=False)
        assert locked.returncode == 1, "a later holder would change the host while the migration runs"
        (host.directory / "release" / "go").write_text("0")
        assert first.wait(timeout=scaled(10)) == 0
    finally:
        if first.poll() is None:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
    limits = "--lock-timeout-ms 5000 --statement-timeout-ms 60000"
    assert log.read_text() == f"--settings {host.directory}/release/app.env --json {limits} up --phase expand\n"


def test_a_migration_that_fails_says_so(host: Pm2Host, monkeypatch: pytest.MonkeyPatch, shell: str) -> None:
    monkeypatch.setenv("LOG", str(host.directory / "log"))
    arguments = migration(host, 1)
    (host.directory / "release" / "go").write_text("4")
    assert run("app_migrate", *arguments, shell=shell).returncode == 4
