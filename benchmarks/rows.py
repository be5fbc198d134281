"""The result of a measurement: a row of `build/bench.json` and of the printed table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """A value beside its baseline.

    Args:
        name: what was measured, for example ``blue_green.failed_requests``.
        value: ours, the median of `n` measurements unless docs/benchmarks.md says otherwise.
        baseline: the same measure of what people do without this project.
        unit: of both.
        n: how often ours was measured.
    """

    name: str
    value: float
    baseline: float
    unit: str
    n: int

    @property
    def ratio(self) -> float | None:
        """Value over baseline, 1 when both are 0; None when only the baseline is: no number says how much worse."""
        if self.value == self.baseline:
            return 1.0
        return round(self.value / self.baseline, 3) if self.baseline else None

    def as_json(self) -> dict[str, str | float | int | None]:
        """The row of `build/bench.json`."""
        fields = asdict(self)
        return {key: self.ratio if key == "ratio" else fields[key] for key in COLUMNS}


@dataclass(frozen=True)
class FailedRow:
    """A row that could not be measured: in the same place, without numbers.

    Args:
        name: what was to be measured.
        error: why it was not, and what to do.
    """

    name: str
    error: str

    def as_json(self) -> dict[str, str | float | int | None]:
        """The row of `build/bench.json`: `value`, `baseline` and `ratio` are null, and there is an `error`."""
        nothing = {"value": None, "baseline": None, "ratio": None}
        return {"name": self.name, **nothing, "unit": "", "n": 0, "error": self.error}


COLUMNS = ("name", "value", "baseline", "ratio", "unit", "n")


def write_rows(rows: Sequence[Row | FailedRow], path: Path) -> None:
    """Write the rows as JSON; whoever reads meanwhile sees all of the file or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.partial")
    beside.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    beside.replace(path)


def table(rows: Sequence[Row | FailedRow]) -> str:
    """The rows for people, those that failed with the first line of the reason."""
    cells = [[_cell(row.as_json()[column]) for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    reasons = [f"  failed: {row.error.splitlines()[0]}" if isinstance(row, FailedRow) else "" for row in rows]
    lines = [_line(line, widths) for line in [list(COLUMNS), *cells]]
    return "\n".join(line + reason for line, reason in zip(lines, ["", *reasons], strict=True))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    # Words to the left, numbers to the right.
    texts = {0, COLUMNS.index("unit")}
    aligned = [
        cell.ljust(width) if number in texts else cell.rjust(width)
        for number, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
