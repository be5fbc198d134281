"""Runs the sending process and collects what it saw."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from lab import paths
from lab.load.report import LoadReport, read_requests
from lab.waiting import Patience

CLIENT: Final = Path(__file__).with_name("client.js")
READY_TIMEOUT_SECONDS: Final = 15.0
# After a stop, requests in flight end by their own deadline; then comes the log's last write.
STOP_MARGIN_SECONDS: Final = 10.0


class LoadError(Exception):
    """The load generator itself failed; says nothing about the application."""


class LoadGenerator:
    """Sends requests at a fixed rate to load balancers until stopped.

    Open loop: a slow answer does not slow the next request down. TLS is verified with `ca_file` for
    `hostname`, which is also the Host header, while connections go to the load balancers' addresses.
    """

    def __init__(
        self,
        *,
        load_balancers: Mapping[str, tuple[str, int]],
        ca_file: Path,
        rate: float = 100.0,
        fresh_share: float = 0.2,
        hostname: str = "app.sebenza.com",
        duration_seconds: float | None = None,
        connections: int = 8,
        write_share: float = 0.05,
        timeout_seconds: float = 10.0,
        max_in_flight: int = 2000,
        idle_seconds: float = 30.0,
        seed: int = 1,
        request_paths: Sequence[str] = (),
        node: Path | None = None,
    ) -> None:
        """Describe the load; nothing is sent before `start`.

        Args:
            load_balancers: name and (address, port) of each; requests go to them in turn.
            ca_file: the certificate authority that signed theirs.
            rate: requests a second, over all load balancers.
            fresh_share: share of requests that open a connection of their own.
            hostname: Host header and TLS server name.
            duration_seconds: when to end by itself; until `stop` when None.
            connections: keep-alive connections to each load balancer.
            write_share: share of POST requests in the manual's mix of routes.
            timeout_seconds: a request without a complete answer by then has failed.
            max_in_flight: above this, due requests are counted as shed instead of sent.
            idle_seconds: the client closes a kept connection that it has not used for so long.
            seed: same seed, same sequence of routes and kinds.
            request_paths: plain reads of these paths instead of the manual's mix.
            node: the node program, when not the installed one.
        """
        self._settings: dict[str, Any] = {
            "load_balancers": [
                {"name": name, "address": address, "port": port} for name, (address, port) in load_balancers.items()
            ],
            "ca_file": str(ca_file),
            "rate": rate,
            "fresh_share": fresh_share,
            "hostname": hostname,
            "duration_seconds": duration_seconds,
            "connections": connections,
            "write_share": write_share,
            "timeout_seconds": timeout_seconds,
            "max_in_flight": max_in_flight,
            "idle_seconds": idle_seconds,
            "seed": seed,
            "paths": list(request_paths),
        }
        self._node = node
        self._process: subprocess.Popen[str] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._marks: dict[str, float] = {}
        self._latest: dict[str, Any] = dict.fromkeys(("requests", "failed", "retried", "shed", "in_flight"), 0)
        self._end: dict[str, Any] | None = None
        self._ready = threading.Event()
        self._reader: threading.Thread | None = None
        self._report: LoadReport | None = None

    def __enter__(self) -> LoadGenerator:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; an error inside the block is not replaced by one of stopping."""
        try:
            self.stop()
        except LoadError:
            if kind is None:
                raise
        finally:
            self._clean_up()

    def start(self) -> None:
        """Start to send; returns when the first requests are under way."""
        if self._process is not None:
            raise LoadError("this load generator was started before: make a new one")
        self._directory = tempfile.TemporaryDirectory(prefix="sebenza-load-")
        settings = self._settings | {"request_log": f"{self._directory.name}/requests.tsv"}
        node = self._node or paths.program("node")
        self._process = subprocess.Popen(
            [str(node), str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, name="load-reader", daemon=True)
        self._reader.start()
        self._tell(json.dumps(settings))
        patience = Patience("the load client starts", READY_TIMEOUT_SECONDS)
        while not self._ready.wait(0.1):
            if self._process.poll() is not None or patience.is_over():
                raise LoadError(f"the load client did not start: {self._errors()}")

    def mark(self, label: str) -> float:
        """Note a moment under a name; the report keeps it. Returns it in epoch seconds."""
        self._marks[label] = time.time()
        return self._marks[label]

    def progress(self) -> dict[str, Any]:
        """Counts up to `at` (epoch, each second): requests, failed, retried, shed, in_flight; colors of that second."""
        return dict(self._latest)

    def wait(self) -> LoadReport:
        """Wait until `duration_seconds` are over; then as `stop`."""
        duration = self._settings["duration_seconds"]
        if duration is None:
            raise LoadError("this load has no duration: call stop")
        return self._collect(duration + self._settings["timeout_seconds"] + STOP_MARGIN_SECONDS)

    def stop(self) -> LoadReport:
        """Send no more, let the requests in flight end, and report. Later calls give the same report."""
        if self._report is not None:
            return self._report
        if self._process is None:
            raise LoadError("this load generator was not started")
        self._tell("stop")
        return self._collect(self._settings["timeout_seconds"] + STOP_MARGIN_SECONDS)

    def _collect(self, timeout_seconds: float) -> LoadReport:
        if self._report is not None:
            return self._report
        assert self._process
        assert self._reader
        assert self._directory
        self._reader.join(timeout_seconds)
        if self._end is None:
            self._process.kill()
            raise LoadError(f"the load client ended without a report: {self._errors()}")
        self._process.wait(STOP_MARGIN_SECONDS)
        self._report = LoadReport(
            started_at=self._end["started_at"],
            ended_at=self._end["ended_at"],
            rate=self._settings["rate"],
            all_requests=read_requests(Path(self._directory.name) / "requests.tsv"),
            marks=dict(self._marks),
            shed=self._end["shed"],
            cpu_seconds=self._end["cpu_seconds"],
            max_dispatch_delay_seconds=self._end["max_dispatch_delay_seconds"],
        )
        if self._report.requests != self._end["requests"] or self._report.failed != self._end["failed"]:
            raise LoadError(
                f"the request log has {self._report.requests} requests and {self._report.failed} failures, "
                f"the client counted {self._end['requests']} and {self._end['failed']}"
            )
        return self._report

    def _tell(self, line: str) -> None:
        assert self._process
        assert self._process.stdin
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended by itself; _collect finds out how

    def _read(self) -> None:
        assert self._process
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                self._ready.set()
            elif event["event"] == "second":
                self._latest = event
            elif event["event"] == "end":
                self._end = event
                return

    def _errors(self) -> str:
        assert self._process
        assert self._process.stderr
        if self._process.poll() is None:
            self._process.kill()
        return self._process.stderr.read().strip()[-2000:] or "no message"

    def _clean_up(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
        if self._directory is not None:
            self._directory.cleanup()
