"""A host's clock against this worker's: ages and points in time are as right as the clock that they are read by."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sebenza_ops.systems.errors import NoDataError
from sebenza_ops.systems.ssh import HostSession

# As check_environment has it: more than the first is told, more than the second is wrong.
SKEW_WARNING_SECONDS = 1.0
SKEW_WRONG_SECONDS = 5.0
_READINGS = 3


@dataclass(frozen=True)
class HostClock:
    """A host's clock against this worker's, in seconds: the difference (positive: ahead), how far it can be wrong."""

    host: str
    skew_seconds: float
    uncertainty_seconds: float

    @property
    def sure_seconds(self) -> float:
        """By how much it is wrong at least; what the measurement can't tell is not held against the host."""
        return max(abs(self.skew_seconds) - self.uncertainty_seconds, 0.0)

    @property
    def is_wrong(self) -> bool:
        """Whether nothing should be decided by it."""
        return self.sure_seconds > SKEW_WRONG_SECONDS

    @property
    def words(self) -> str:
        """In words."""
        side = "ahead of" if self.skew_seconds > 0 else "behind"
        return f"the clock of {self.host} is {abs(self.skew_seconds):.1f} s {side} Airflow's"


def read_clock(session: HostSession) -> HostClock:
    """The host's clock, by the quickest of a few questions: the answer was right at some moment of the question.

    Raises NoDataError when it does not tell the time; HostUnreachableError, RemoteCommandError.
    """
    found: list[HostClock] = []
    for _ in range(_READINGS):
        asked, began = time.time(), time.monotonic()
        text = session.run(["date", "+%s.%N"], timeout_seconds=10).stdout
        took = time.monotonic() - began
        try:
            found.append(HostClock(session.host.name, float(text) - (asked + took / 2), took / 2))
        except ValueError as error:
            raise NoDataError(f"its clock can't be read: {text[:100]!r}", host=session.host.name) from error
    return min(found, key=lambda each: each.uncertainty_seconds)
