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


COLUMNS = ("name", "value", "baseline", "ratio", "unit", "n")


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    cells = [[_cell(row.as_json()[column]) for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
    return "\n".join(_line(line, widths) for line in [list(COLUMNS), *cells])


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
