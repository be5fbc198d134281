"""What a load run found: every request, and the counts that people ask for."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from typing import Any, Final, NamedTuple

OK: Final = "ok"
# Upper bounds of the histogram in seconds: those of the application's own metric, and finer ones below.
HISTOGRAM_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)


class Request(NamedTuple):
    """One request of a client; times are epoch seconds.

    `sent_at` is when its bytes were handed to an established connection (0 when none came to be),
    `started_at` when the client decided to send it: for a fresh connection that is before the handshakes.
    """

    sent_at: float
    started_at: float
    finished_at: float
    load_balancer: str
    kind: str  # fresh | keep_alive
    method: str
    route: str
    status: int  # 0 without an answer
    color: str  # X-Color; empty when the answer does not come from the application
    release: str  # X-Release
    outcome: (
        str  # ok | server_error | unexpected_status | connect_error | tls_error | reset | timeout | truncated | ...
    )
    retried: bool
    request_id: str
    error: str

    @property
    def latency_seconds(self) -> float:
        """What the client waited, connecting included."""
        return self.finished_at - self.started_at

    @property
    def reached_at(self) -> float:
        """When it was sent, or started when it could not be sent."""
        return self.sent_at or self.started_at


class Failure(NamedTuple):
    """A failed request, for people."""

    at: str
    second: int
    load_balancer: str
    kind: str
    method: str
    route: str
    status: int
    color: str
    outcome: str
    error: str
    request_id: str

    @staticmethod
    def of(request: Request) -> Failure:
        """The failure that a request was."""
        at = datetime.fromtimestamp(request.finished_at, UTC).isoformat(timespec="milliseconds")
        return Failure(
            at,
            int(request.finished_at),
            request.load_balancer,
            request.kind,
            request.method,
            request.route,
            request.status,
            request.color,
            request.outcome,
            request.error,
            request.request_id,
        )


@dataclass
class SecondReport:
    """Requests that were finished in one second: counts per color ("" when no application answered)."""

    second: int
    colors: dict[str, dict[str, int]]
    p95_seconds: float


@dataclass
class LoadReport:
    """The outcome of a load run."""

    started_at: float
    ended_at: float
    rate: float
    all_requests: Sequence[Request] = field(repr=False)
    marks: dict[str, float]
    shed: int  # requests that were due and not sent, since too many were in flight
    cpu_seconds: float  # of the generator itself
    max_dispatch_delay_seconds: float  # how late the generator was at worst: above 1 s it was starved

    def __post_init__(self) -> None:
        """Count once."""
        self.requests = len(self.all_requests)
        self.failed_requests = [request for request in self.all_requests if request.outcome != OK]
        self.failed = len(self.failed_requests)
        self.retried = sum(1 for request in self.all_requests if request.retried)

    @property
    def duration_seconds(self) -> float:
        """From the first request to the last dispatched."""
        return self.ended_at - self.started_at

    @property
    def failures(self) -> list[Failure]:
        """Every failed request in the order of their ends."""
        return [Failure.of(request) for request in self.failed_requests]

    @property
    def first_failure(self) -> Failure | None:
        """The failed request that ended first."""
        return min(self.failures, key=lambda failure: failure.at, default=None)

    @property
    def outcomes(self) -> dict[str, int]:
        """How many requests ended which way."""
        return dict(Counter(request.outcome for request in self.all_requests))

    def requests_to(
        self, color: str, since: datetime | float | None = None, until: datetime | float | None = None
    ) -> int:
        """Requests that `color` answered and that were *sent* from `since` up to, not including, `until`.

        A request that was under way at `since` does not count, whenever it ended.
        """
        first, last = _epoch(since, -math.inf), _epoch(until, math.inf)
        return sum(1 for request in self.all_requests if request.color == color and first <= request.reached_at < last)

    def failed_between(self, since: datetime | float | None = None, until: datetime | float | None = None) -> int:
        """Failed requests that ended from `since` up to, not including, `until`."""
        first, last = _epoch(since, -math.inf), _epoch(until, math.inf)
        return sum(1 for request in self.failed_requests if first <= request.finished_at < last)

    def last_sent_to(self, color: str) -> float | None:
        """When the last request that `color` answered was sent (epoch seconds)."""
        return max((request.reached_at for request in self.all_requests if request.color == color), default=None)

    @property
    def per_second(self) -> list[SecondReport]:
        """Counts and 95th percentile per second of ending; seconds in which nothing ended are left out."""
        by_second: dict[int, list[Request]] = {}
        for request in self.all_requests:
            by_second.setdefault(int(request.finished_at), []).append(request)
        reports = []
        for second, requests in sorted(by_second.items()):
            colors: dict[str, dict[str, int]] = {}
            for request in requests:
                counts = colors.setdefault(request.color, {"ok": 0, "failed": 0})
                counts["ok" if request.outcome == OK else "failed"] += 1
            reports.append(SecondReport(second, colors, percentile([r.latency_seconds for r in requests], 0.95)))
        return reports

    def latency(self, color: str | None = None) -> dict[str, float]:
        """p50, p95, p99 and max in seconds of the requests that were answered, of one color or all."""
        waits = [r.latency_seconds for r in self.all_requests if r.status and color in (None, r.color)]
        shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
        return {name: percentile(waits, share) for name, share in shares.items()}

    def histogram(self) -> dict[str, int]:
        """How many answered requests took at most as many seconds as the key says (cumulative)."""
        waits = [request.latency_seconds for request in self.all_requests if request.status]
        counts = {str(bound): sum(1 for wait in waits if wait <= bound) for bound in HISTOGRAM_BOUNDS}
        return counts | {"+Inf": len(waits)}

    def summary(self) -> dict[str, Any]:
        """Everything but the single good requests, as JSON values."""
        duration = self.duration_seconds or math.nan
        return {
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "rate": self.rate,
            "requests": self.requests,
            "failed": self.failed,
            "retried": self.retried,
            "shed": self.shed,
            "outcomes": self.outcomes,
            "colors": dict(Counter(request.color for request in self.all_requests)),
            "releases": dict(Counter(request.release for request in self.all_requests)),
            "kinds": dict(Counter(request.kind for request in self.all_requests)),
            "latency_seconds": self.latency(),
            "histogram": self.histogram(),
            "generator": {
                "cpu_seconds": self.cpu_seconds,
                "cpu_cores": round(self.cpu_seconds / duration, 3),
                "max_dispatch_delay_seconds": self.max_dispatch_delay_seconds,
            },
            "marks": self.marks,
            "failures": [failure._asdict() for failure in self.failures],
            "per_second": [asdict(second) for second in self.per_second],
        }

    def write(self, path: Path) -> None:
        """Write the summary as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.summary(), indent=1) + "\n")


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed; 0 when there are none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def read_requests(path: Path) -> list[Request]:
    """The requests of a request log; a last line that was cut off by a crash is dropped."""
    requests = []
    with path.open() as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if not line.endswith("\n") or len(fields) != len(Request._fields):
                continue
            sent, started, finished, balancer, kind, method, route, status, color, release, outcome, *rest = fields
            retried, request_id, error = rest
            requests.append(
                Request(
                    float(sent),
                    float(started),
                    float(finished),
                    intern(balancer),
                    intern(kind),
                    intern(method),
                    intern(route),
                    int(status),
                    intern(color),
                    intern(release),
                    intern(outcome),
                    retried == "1",
                    request_id,
                    error,
                )
            )
    return requests


def _epoch(value: datetime | float | None, default: float) -> float:
    if value is None:
        return default
    return value.timestamp() if isinstance(value, datetime) else float(value)
