"""Waiting for conditions of the estate: as long as something moves, and as long as this machine needs."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Final

POLL_SECONDS: Final = 0.05
# What `_work` takes on one core of the machine that the deadlines were chosen on.
REFERENCE_SECONDS: Final = 0.011
WORK_REPEATS: Final = 3
# A machine's load may be that of others beside a container; no deadline grows beyond this.
MOST_TIMES: Final = 12.0
# However much moves: something that never ends is no progress.
CAP_SECONDS: Final = 3600.0
LOOK_SECONDS: Final = 1.0
SAY_SECONDS: Final = 10.0


class LabError(Exception):
    """The lab can't do what was asked; the message says which part, why, and what to do."""


def _work() -> int:
    total = 0
    for number in range(200_000):
        total = (total * 31 + number) & 0xFFFFFFFF
    return total


@cache
def machine_slowness() -> float:
    """How many times longer than on the reference machine one core takes; measured once a process, never below 1."""
    spent = []
    for _ in range(WORK_REPEATS):
        began = time.thread_time()
        _work()
        spent.append(time.thread_time() - began)
    return max(1.0, min(spent) / REFERENCE_SECONDS)


def load_per_core() -> float:
    """By how many processes a core would be shared with one more, over the last minute; never below 1."""
    return max(1.0, (os.getloadavg()[0] + 1) / len(os.sched_getaffinity(0)))


def slowness() -> float:
    """How many times longer than on the idle reference machine something takes here, now; never below 1."""
    return min(MOST_TIMES, machine_slowness() * load_per_core())


def scaled(seconds: float) -> float:
    """A deadline for commands that take one themselves: `seconds` on the idle reference machine."""
    return seconds * slowness()


def say_waiting(line: str) -> None:
    """Tell on standard error: what a program answers with is on standard output."""
    print(line, file=sys.stderr, flush=True)


class Patience:
    """How long something is awaited: a time without progress, by the speed and the load of this machine.

    Args:
        what: what is awaited, for the messages.
        seconds: without progress, on the idle reference machine.
        progress: a value that changes while what is awaited comes nearer (bytes, tasks ended, ...); each change starts
            the time anew. Without it the time is that of the whole wait. An `OSError` of it is no progress, and told.
        look_seconds: between two looks at the progress; it may be dear.
        cap_seconds: of the whole wait, whatever moves.
        clock: seconds that pass.
        factor: by how much this machine is slower than the reference, now.
        say: told every ten seconds what is awaited.
    """

    def __init__(
        self,
        what: str,
        seconds: float,
        *,
        progress: Callable[[], object] | None = None,
        look_seconds: float = LOOK_SECONDS,
        cap_seconds: float = CAP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        factor: Callable[[], float] = slowness,
        say: Callable[[str], None] = say_waiting,
    ) -> None:
        self._what, self._seconds, self._cap_seconds = what, seconds, max(cap_seconds, seconds)
        self._progress, self._look_seconds = progress, look_seconds
        self._clock, self._factor, self._say = clock, factor, say
        self._began = self._moved = self._said = clock()
        self._looked: float | None = None
        self._seen: object = None
        self._trouble = ""
        self._times = 1.0

    def is_over(self) -> bool:
        """Whether nothing has moved for too long. Looks at the progress, and tells of a long wait."""
        now = self._clock()
        self._look(now)
        still = now - self._moved
        if still >= self._seconds:
            # Asked only when it matters; what a load has once slowed down stays late when it has gone.
            self._times = max(self._times, self._factor())
        if now - self._said >= SAY_SECONDS:
            self._said = now
            self._say(f"waiting, {now - self._began:.0f} s so far: {self._what}{self._moves(now)}")
        return still >= self._seconds * self._times or now - self._began >= self._cap_seconds * self._times

    def _look(self, now: float) -> None:
        if self._progress is None or (self._looked is not None and now - self._looked < self._look_seconds):
            return
        try:
            seen = self._progress()
        except OSError as error:
            self._trouble = f" (can't be told now: {error})"
        else:
            self._trouble = ""
            if self._looked is not None and seen != self._seen:
                self._moved = now
            self._seen = seen
        self._looked = now

    def _moves(self, now: float) -> str:
        if self._progress is None:
            return ""
        return f"; progress: {self._seen}{self._trouble}, unchanged for {now - self._moved:.0f} s"

    def told(self) -> str:
        """What was awaited in vain, for how long, what moved last, and what the machine has to do with it."""
        now = self._clock()
        alone = " without progress" if self._progress else ""
        load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
        return (
            f"not within {round(now - self._began, 1):g} s: {self._what}{self._moves(now)} "
            f"(allowed: {self._seconds:g} s{alone}, times {self._times:.1f} for this machine; "
            f"load {load:.1f} on {cores} cores, a core takes {machine_slowness():.1f} times the reference's time)"
        )


def until(
    condition: Callable[[], bool],
    what: str,
    deadline_seconds: float = 30.0,
    *,
    progress: Callable[[], object] | None = None,
    look_seconds: float = LOOK_SECONDS,
    cap_seconds: float = CAP_SECONDS,
    poll_seconds: float = POLL_SECONDS,
    error: Callable[[str], Exception] = LabError,
) -> None:
    """Wait until `condition` is true; an `error` that says what was awaited after the deadline.

    A condition that raises `OSError` counts as not yet true, and the last such error is reported. The deadline grows
    with the speed and the load of this machine, and begins anew when the progress changes; see `Patience`.
    """
    patience = Patience(what, deadline_seconds, progress=progress, look_seconds=look_seconds, cap_seconds=cap_seconds)
    reason = ""
    while True:
        # Before the last look: nothing is given up because this process was not at work for a while.
        is_over = patience.is_over()
        try:
            if condition():
                return
        except OSError as last:
            reason = f"; last error: {last}"
        if is_over:
            raise error(f"{patience.told()}{reason}")
        time.sleep(poll_seconds)


def accepts_connections(host_address: str, port: int) -> bool:
    """Whether something listens there now."""
    try:
        with socket.create_connection((host_address, port), timeout=1.0):
            return True
    except OSError:
        return False
