"""How long a recovery took and what it lost, measured, and compared with what is promised. Pure rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.environments.policies import Objectives

RECOVERED_ACTION = "disaster.recovered"
DRILLED_ACTION = "disaster.drilled"


class Measures(BaseModel):
    """The moments of one recovery, in seconds since the epoch.

    Attributes:
        last_good_at: When the service was last seen well; None when nobody looked.
        last_good_basis: Who saw it.
        declared_at: When the recovery was started.
        served_at: When users were served again; None when they are not.
        last_kept_at: The last commit that is kept; None when it can't be told.
        lost_seconds: What was lost by what the old primary or the endpoint say, where they do; it wins.
    """

    model_config = ConfigDict(frozen=True)

    declared_at: float
    last_good_at: float | None = None
    last_good_basis: str = ""
    served_at: float | None = None
    last_kept_at: float | None = None
    lost_seconds: float | None = None

    @property
    def rto_seconds(self) -> float | None:
        """From when it was last seen well to when users were served again: what users lived through."""
        if self.served_at is None or self.last_good_at is None:
            return None
        return max(0.0, self.served_at - self.last_good_at)

    @property
    def rto_from_start_seconds(self) -> float | None:
        """From the declared start: what the procedure and the people took."""
        return None if self.served_at is None else max(0.0, self.served_at - self.declared_at)

    @property
    def rpo_seconds(self) -> float | None:
        """From the last commit that is kept to when it was last seen well: at most so much was lost."""
        if self.lost_seconds is not None:
            return self.lost_seconds
        if self.last_kept_at is None or self.last_good_at is None:
            return None
        return max(0.0, self.last_good_at - self.last_kept_at)

    def detail(self) -> dict[str, Any]:
        """What the audit keeps of it."""
        return {
            **self.model_dump(mode="json"),
            "rto_seconds": self.rto_seconds,
            "rto_from_start_seconds": self.rto_from_start_seconds,
            "rpo_seconds": self.rpo_seconds,
        }


class Comparison(BaseModel):
    """One objective, and what was measured; not measured is not met."""

    model_config = ConfigDict(frozen=True)

    name: str
    objective_seconds: float
    measured_seconds: float | None
    basis: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the objective was kept."""
        return self.measured_seconds is not None and self.measured_seconds <= self.objective_seconds

    @property
    def words(self) -> str:
        """In words."""
        basis = f" ({self.basis})" if self.basis else ""
        if self.measured_seconds is None:
            return f"{self.name}: not measured, objective {self.objective_seconds:g} s: MISSED{basis}"
        verdict = "met" if self.is_met else "MISSED"
        return f"{self.name}: {self.measured_seconds:.1f} s, objective {self.objective_seconds:g} s: {verdict}{basis}"


def mean_time_to_recover(durations: Sequence[float]) -> float | None:
    """The mean over runs; None without any."""
    return sum(durations) / len(durations) if durations else None


def durations_of(details: Sequence[Mapping[str, Any]]) -> list[float]:
    """The recovery times in audit entries, from last good where it is known, else from the declared start."""
    found = []
    for detail in details:
        value = detail.get("rto_seconds")
        if value is None:
            value = detail.get("rto_from_start_seconds")
        if value is not None:
            found.append(float(value))
    return found


def compare(measures: Measures, objectives: Objectives, durations: Sequence[float]) -> list[Comparison]:
    """All objectives of a recovery beside what was measured.

    Args:
        measures: This run's.
        objectives: What is promised.
        durations: The recovery times of the runs before, which the mean is taken over with this one's.
    """
    own = measures.rto_seconds if measures.rto_seconds is not None else measures.rto_from_start_seconds
    every = [*durations, own] if own is not None else list(durations)
    return [
        Comparison(
            name="RTO from the last good probe",
            objective_seconds=objectives.rto_seconds,
            measured_seconds=measures.rto_seconds,
            basis=measures.last_good_basis,
        ),
        Comparison(
            name="RTO from the declared start",
            objective_seconds=objectives.rto_seconds,
            measured_seconds=measures.rto_from_start_seconds,
        ),
        Comparison(
            name="RPO",
            objective_seconds=objectives.rpo_seconds,
            measured_seconds=measures.rpo_seconds,
            basis=moment(measures.last_kept_at, "last commit that is kept"),
        ),
        Comparison(
            name="MTTR",
            objective_seconds=objectives.mttr_seconds,
            measured_seconds=mean_time_to_recover(every),
            basis=f"mean of {len(every)} runs",
        ),
    ]


def moment(at: float | None, what: str) -> str:
    """A moment in words, or that it is not known."""
    if at is None:
        return f"{what}: not known"
    return f"{what}: {datetime.fromtimestamp(at, UTC).isoformat(timespec='milliseconds')}"


def missed(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those that were not kept."""
    return [each for each in comparisons if not each.is_met]
