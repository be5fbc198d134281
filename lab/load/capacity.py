"""How many requests a second the estate serves while Airflow works beside it, and so how many may be sent.

On one machine the estate, Airflow and the load share the processors. Under a load that they can't serve, requests fail
of overload and good releases are taken back because of it: nothing is learned of the procedures. So whatever sends
load asks `rate_for` how much, and gets at most half of what was measured here.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from lab import addresses, paths
from lab.load.busy_airflow import busy_airflow
from lab.load.calm import await_calm
from lab.load.generator import LoadGenerator
from lab.load.processors import foreign_cores
from lab.load.report import OK, LoadReport, percentile
from lab.waiting import LabError

# The other half is for what comes at its worst beside a load: the second color starting, a backup, Airflow's bursts.
SHARE: Final = 0.5
# Below this a bake sees too little in its windows of seconds, and 20,000 requests take more than eleven minutes.
MINIMUM_PER_SECOND: Final = 30
LOAD_BALANCERS: Final = ("lb1", "lb2")

# Twice the minimum: the least that must be served.
FIRST_RATE: Final = 60.0
# Between a rate that was served and one that was not: closer is within what two measurements differ by.
PRECISION: Final = 1.3
# Nobody is helped by knowing less exactly than this how slow a machine is.
LOWEST_RATE: Final = 4.0
STEP_SECONDS: Final = 3.0
# The kept connections are opened all at once, which is no part of a rate: response times count from here on.
OPENING_SECONDS: Final = 0.5
# Without a queue an answer takes 5 to 50 ms; a third of a second is one that waited for the processors, and still far
# from the 2 s at which monitoring warns and the application gives up on its database.
P95_SECONDS: Final = 0.35
# A client that is later than this sends bursts in place of the rate.
DISPATCH_DELAY_SECONDS: Final = 0.5
# Open requests are limited to those of so many seconds, so that a rate that is too high leaves a queue that is gone in
# a second: health checks (2 s) must not fail, and no alert may begin.
OPEN_SECONDS: Final = 0.5
# Room for the opening.
LEAST_OPEN: Final = 40

KEPT_SECONDS: Final = 15 * 60.0
# So many more or fewer processors in use by other programs, and what was measured is not true any more.
FOREIGN_TOLERANCE_CORES: Final = 0.5

Say = Callable[[str], None]


class MachineTooSlowError(LabError):
    """Half of what the estate serves on this machine is too little for a load; the message has the figures."""


@dataclass(frozen=True)
class Step:
    """What came of one rate: requests offered for a few seconds, whatever became of them.

    Args:
        rate: requests a second that were offered.
        requests: that were sent.
        failed: that got no good answer.
        shed: that were due and not sent, since too many were open.
        open_at_end: that had no answer when the last one was sent.
        p95_seconds: 95th percentile of the response time.
        dispatch_delay_seconds: how late the client itself was, at worst.
    """

    rate: float
    requests: int
    failed: int
    shed: int
    open_at_end: int
    p95_seconds: float
    dispatch_delay_seconds: float

    @classmethod
    def of(cls, report: LoadReport) -> Step:
        """From a load's report."""
        settled = [each for each in report.all_requests if each.started_at >= report.started_at + OPENING_SECONDS]
        return cls(
            rate=report.rate,
            requests=report.requests,
            failed=sum(1 for request in report.all_requests if request.outcome != OK),
            shed=report.shed,
            open_at_end=sum(1 for request in report.all_requests if request.finished_at > report.ended_at),
            p95_seconds=percentile([each.latency_seconds for each in settled], 0.95),
            dispatch_delay_seconds=report.max_dispatch_delay_seconds,
        )

    def shortfall(self) -> str | None:
        """Why the rate was not served; None when it was."""
        if self.failed:
            return f"{self.failed} of {self.requests} requests failed"
        if self.shed:
            return f"answers fell behind: {self.shed} requests could not be sent"
        if self.requests == 0:
            return "no request was sent"
        # More than come in within the time that an answer may take: a queue.
        if self.open_at_end > max(1.0, self.rate * P95_SECONDS):
            return f"answers fell behind: {self.open_at_end} requests had none at the end"
        if self.p95_seconds > P95_SECONDS:
            return f"p95 was {self.p95_seconds * 1000:.0f} ms, more than {P95_SECONDS * 1000:.0f} ms"
        if self.dispatch_delay_seconds > DISPATCH_DELAY_SECONDS:
            return f"the client was {self.dispatch_delay_seconds * 1000:.0f} ms late"
        return None


@dataclass(frozen=True)
class Capacity:
    """What was measured, and under which circumstances.

    Args:
        per_second: the highest rate that was served; 0 when none was.
        enough: no higher rate was tried, since none was asked for.
        beside: what kept Airflow busy meanwhile.
        measured_at: epoch seconds.
        boot_id: of this machine's start.
        foreign_cores: processors that other programs used before.
        load_average: of one minute, before; for people.
        steps: what was tried.
    """

    per_second: float
    enough: float
    beside: str
    measured_at: float
    boot_id: str
    foreign_cores: float
    load_average: float
    steps: tuple[Step, ...]

    def rate(self, maximum: float) -> float:
        """The rate to send: the maximum, or half of what was served if that is less; whole requests a second.

        Raises MachineTooSlowError when half is less than MINIMUM_PER_SECOND (and than the maximum).
        """
        half = math.floor(self.per_second * SHARE)
        if half >= maximum:
            return maximum
        if half < MINIMUM_PER_SECOND:
            raise MachineTooSlowError(self._too_slow())
        return float(half)

    def summary(self) -> str:
        """In one sentence."""
        least = "at least " if self.per_second >= self.enough else ""
        return f"the estate serves {least}{self.per_second:g} requests a second while Airflow works"

    def _too_slow(self) -> str:
        missed = [step for step in self.steps if step.shortfall() is not None]
        lowest = min(missed, key=lambda step: step.rate, default=None)
        why = f" (at {lowest.rate:g}: {lowest.shortfall()})" if lowest is not None else ""
        return (
            f"this machine is too slow: {self.summary()}{why}, and half of that is less than {MINIMUM_PER_SECOND}, "
            f"with which a deployment can be watched. Other programs used {self.foreign_cores:.1f} of its "
            f"{os.cpu_count()} processors: end them, or take a machine with more. Nothing was deployed"
        )


def next_rate(steps: Sequence[Step], enough: float) -> float | None:
    """The rate to try after these steps; None when the highest one is known, or `enough` was served.

    Doubled until one is not served, then between the two. The first is tried twice: one burst of something else
    must not make a machine too slow.
    """
    served = highest_served(steps)
    missed = min((step.rate for step in steps if step.rate > served and step.shortfall() is not None), default=None)
    if missed is None:
        if not served:
            return min(FIRST_RATE, enough)
        return min(served * 2, enough) if served < enough else None
    if not served:
        if len(steps) == 1:
            return missed
        return math.floor(missed / 2) if missed / 2 >= LOWEST_RATE else None
    if missed / served <= PRECISION:
        return None
    return float(math.floor(math.sqrt(served * missed)))


def highest_served(steps: Sequence[Step]) -> float:
    """The highest rate that was served; 0 when none was."""
    return max((step.rate for step in steps if step.shortfall() is None), default=0.0)


def measure(enough: float, say: Say, *, load_balancers: Sequence[str] = LOAD_BALANCERS) -> Capacity:
    """Offer rising rates while Airflow is busy, for some 15 to 25 s; leaves a calm estate, and takes nothing down.

    Args:
        enough: no higher rate is tried, requests a second.
        say: gets a line for each rate.
        load_balancers: the hosts that get the requests, in turn.

    Raises LabError when Airflow could not be kept busy, or the estate does not come to rest.
    """
    foreign, load_average = foreign_cores(), os.getloadavg()[0]
    began = time.time()
    steps: list[Step] = []
    say("measuring what the estate serves while Airflow works")
    with busy_airflow(say) as work:
        while (rate := next_rate(steps, enough)) is not None:
            work.check()
            steps.append(_step(rate, load_balancers))
            shortfall = steps[-1].shortfall()
            say(f"  {rate:4.0f} a second: {shortfall or f'served, p95 {steps[-1].p95_seconds * 1000:.0f} ms'}")
            await_calm(load_balancers, began)
        work.check()
        beside = work.name
    await_calm(load_balancers, began)
    return Capacity(
        per_second=highest_served(steps),
        enough=enough,
        beside=beside,
        measured_at=began,
        boot_id=boot_id(),
        foreign_cores=foreign,
        load_average=load_average,
        steps=tuple(steps),
    )


def _step(rate: float, load_balancers: Sequence[str]) -> Step:
    load = LoadGenerator(
        load_balancers={name: (addresses.address(name), addresses.HTTPS_PORT) for name in load_balancers},
        ca_file=paths.CA_FILE,
        rate=rate,
        duration_seconds=STEP_SECONDS,
        max_in_flight=max(LEAST_OPEN, math.ceil(rate * OPEN_SECONDS)),
    )
    with load:
        return Step.of(load.wait())


def rate_for(maximum: float, say: Say = lambda _: None) -> float:
    """Requests a second that may be sent to the lab's production: at most `maximum`, and half of what it serves.

    Measured once, then kept for a while. Raises MachineTooSlowError, or LabError when it can't be measured.
    """
    return capacity_for(maximum, say).rate(maximum)


def capacity_for(maximum: float, say: Say = lambda _: None) -> Capacity:
    """What the estate serves, as far as a load of at most `maximum` asks: kept from before, or measured now."""
    enough = maximum / SHARE
    kept = read_kept(paths.CAPACITY_FILE)
    if kept is not None and holds(kept, enough, time.time(), boot_id(), foreign_cores()):
        return kept
    capacity = measure(enough, say)
    if capacity.per_second * SHARE >= min(maximum, MINIMUM_PER_SECOND):
        # Whoever was told that the machine is too slow has changed something, and tries again.
        write_kept(paths.CAPACITY_FILE, capacity)
    return capacity


def holds(kept: Capacity, enough: float, now: float, boot: str, foreign: float) -> bool:
    """Whether what was measured before still tells how much is served.

    Not after a restart of the machine, nor when other programs use more or less of it than then, nor when no rate as
    high as `enough` was tried and none was missed.
    """
    is_known = kept.per_second < kept.enough or kept.enough >= enough
    is_young = 0 <= now - kept.measured_at <= KEPT_SECONDS
    is_alike = abs(kept.foreign_cores - foreign) <= FOREIGN_TOLERANCE_CORES
    return is_known and is_young and is_alike and kept.boot_id == boot


def read_kept(file: Path) -> Capacity | None:
    """What was kept; None when there is nothing, or nothing that this version wrote."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return Capacity(**{**content, "steps": tuple(Step(**step) for step in content["steps"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def write_kept(file: Path, capacity: Capacity) -> None:
    """Keep it, all of it or nothing."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(asdict(capacity), indent=1) + "\n")
    new.replace(file)


def boot_id() -> str:
    """What is new with every start of the machine (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
