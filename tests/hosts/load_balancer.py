"""A real HAProxy with the project's own configuration, and two small web servers as colors behind it."""

from __future__ import annotations

import grp
import os
import pwd
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from sebenza_ops.systems.haproxy import LoadBalancerState, parse_state
from sebenza_ops.systems.host_scripts import include_dir
from tests.hosts.scripts import run
from tests.systems.certificates import Authority
from tests.systems.processes import LOOPBACK, accepts, free_port, server, until

HOSTNAME = "app.sebenza.com"
BACKENDS = {"blue": "bk_blue", "green": "bk_green"}


@contextmanager
def color_server(color: str) -> Iterator[int]:
    """A web server that says its color; /bad fails, /host repeats the Host header."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status = {"/bad": 503, "/redirect": 302, "/missing": 404}.get(self.path, 200)
            body = (self.headers.get("Host") or "").encode() if self.path == "/host" else color.encode()
            if self.path == "/long":
                body = b"x" * 20_000
            self.send_response(status)
            self.send_header("X-Color", color)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    web = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    web.daemon_threads = True
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web.server_address[1]
    finally:
        web.shutdown()
        web.server_close()
        thread.join()


class LoadBalancerUnderTest:
    """HAProxy in master-worker mode, as systemd runs it."""

    def __init__(self, directory: Path, authority: Authority, ports: dict[str, int]) -> None:
        self.directory = directory
        self.authority = authority
        self.ports = ports
        self.socket = directory / "admin.sock"
        self.map_file = directory / "maps" / "color.map"
        self.marker_file = directory / "deployment" / "current-color"
        self.state_dir = directory / "state"
        self.https_port, self.http_port, self.stats_port = free_port(), free_port(), free_port()
        self.config = directory / "haproxy.cfg"
        self.process: subprocess.Popen[str] | None = None
        self.token = 1
        self._write_configuration()

    def _write_configuration(self) -> None:
        user = pwd.getpwuid(os.getuid()).pw_name
        group = grp.getgrgid(os.getgid()).gr_name
        template = (include_dir() / "hosts" / "haproxy.cfg.j2").read_text()
        certificate = self.authority.server_files("site", HOSTNAME).combined
        rendered = (
            Environment(undefined=StrictUndefined, trim_blocks=True, autoescape=False)
            .from_string(template)
            .render(
                bind_address=LOOPBACK,
                https_port=self.https_port,
                http_port=self.http_port,
                stats_address=LOOPBACK,
                stats_port=self.stats_port,
                user=user,
                group=group,
                admin_group=group,
                admin_socket=self.socket,
                certificate=certificate,
                map_file=self.map_file,
                map_key="active",
                frontend="fe_https",
                log_target="stdout format raw local0",
                hostname=HOSTNAME,
                health_path="/health",
                colors=[{"name": c, "backend": b, "port": self.ports[c]} for c, b in BACKENDS.items()],
                servers=[{"name": name, "address": LOOPBACK} for name in ("app1", "app2")],
                source_address=None,
            )
        )
        self.config.write_text(rendered + "\n")
        self.map_file.parent.mkdir(exist_ok=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """HAProxy runs while the block does."""
        log = self.directory / "haproxy.log"
        log.unlink(missing_ok=True)
        argv = ["/usr/sbin/haproxy", "-W", "-f", str(self.config)]

        def is_ready() -> bool:
            # The master takes signals only after it has said so; the worker answers before that.
            return "Loading success" in log.read_text() and self.answers() and accepts(self.https_port)

        with server(argv, log, is_ready) as self.process:
            yield

    def answers(self) -> bool:
        """Whether the runtime API answers."""
        try:
            return "Pid:" in self.command("show info")
        except OSError:
            return False

    def command(self, text: str) -> str:
        """What the runtime API says."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket))
            connection.sendall(text.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def worker(self) -> str:
        """The process id of the worker that answers."""
        return next(line for line in self.command("show info").splitlines() if line.startswith("Pid:"))

    def reload(self) -> None:
        """Reload as systemd does, and wait for the new worker."""
        assert self.process is not None
        before = self.worker()
        self.process.send_signal(signal.SIGUSR2)
        until(lambda: self.answers() and self.worker() != before, "HAProxy has a new worker")

    def color(self) -> str:
        """The color that answers a new user."""
        place = f"{HOSTNAME}:{self.https_port}"
        done = subprocess.run(
            [
                "curl",
                "-s",
                "--cacert",
                str(self.authority.ca_file),
                "--resolve",
                f"{place}:{LOOPBACK}",
                f"https://{place}/",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def fenced(self) -> list[object]:
        """The first arguments of every changing script."""
        return [self.state_dir, "production", self.token, "dag/run"]

    def switch(self, backend: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run lb_switch.sh."""
        return run("lb_switch", *self.fenced(), self.socket, self.map_file, "active", backend, **options)

    def persist(self, color: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run lb_persist.sh."""
        arguments = [self.socket, self.map_file, "active", BACKENDS[color], self.marker_file, color]
        return run("lb_persist", *self.fenced(), *arguments, **options)

    def rotate(self, state: str, *servers: str, minimum: int = 1, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run lb_server.sh on blue's servers."""
        return run("lb_server", *self.fenced(), self.socket, "bk_blue", state, minimum, *servers, **options)

    def statuses(self) -> dict[str, str]:
        """Blue's servers, each with its status."""
        return {server.name: server.status for server in self.state().backend("bk_blue").servers}

    def state_text(self, shell: str = "dash") -> str:
        """The output of lb_state.sh."""
        done = run("lb_state", self.socket, self.map_file, self.marker_file, shell=shell)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def state(self) -> LoadBalancerState:
        """Its state as the procedures read it."""
        return parse_state("lb1", self.state_text(), "active", datetime.now(UTC))


@contextmanager
def load_balancer(directory: Path) -> Iterator[LoadBalancerUnderTest]:
    """A load balancer that is configured, but does not run yet."""
    with color_server("blue") as blue, color_server("green") as green:
        yield LoadBalancerUnderTest(directory, Authority(directory), {"blue": blue, "green": green})
