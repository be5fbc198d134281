"""What was measured, kept as it comes: a row that fails costs no other one."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.rows import FailedRow, Row, write_rows
from benchmarks.session import BenchmarkError
from lab.airflow.client import AirflowApiError, AwaitTimeoutError
from lab.airflow.stack import AirflowUnavailableError
from lab.chaos.run import MissedStateError
from lab.chaos.stage import StageError
from lab.waiting import LabError

# Their message says all that a person needs; others come with where they were raised.
EXPLAINED = (
    BenchmarkError,
    LabError,
    AirflowApiError,
    AirflowUnavailableError,
    AwaitTimeoutError,
    MissedStateError,
    StageError,
)


class Results:
    """The rows so far, written with each change.

    Args:
        file: Where they are written.
        say: Gets one line of progress at a time.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self._file, self._say = file, say
        self.rows: list[Row | FailedRow] = []
        self.troubles: list[str] = []
        """What failed beside the rows; lines for people."""

    @property
    def failed(self) -> list[FailedRow]:
        """The rows that were to be measured, and were not."""
        return [row for row in self.rows if isinstance(row, FailedRow)]

    @property
    def exit_code(self) -> int:
        """0 when everything could be measured, else 1. It says nothing about whether a number is good."""
        return 1 if self.failed or self.troubles else 0

    def measure(self, names: Sequence[str], measurement: Callable[[], Iterable[Row]]) -> None:
        """Take the rows of a measurement as they come. When it fails, those of `names` that are missing have failed."""
        try:
            for row in measurement():
                self._keep([row])
        except Exception as error:
            self.fail(names, error)
        else:
            if self._missing(names):
                self.fail(names, BenchmarkError("the measurement ended without it: a mistake in the benchmark"))

    def fail(self, names: Sequence[str], error: Exception) -> None:
        """Say that those of `names` that have no row yet could not be measured.

        When all have one, what failed came after them: their clean-up, or the end.
        """
        reason = _reason(error)
        missing = self._missing(names)
        if missing:
            self._say(f"FAILED: {', '.join(missing)}: {reason}")
            self._keep([FailedRow(name, reason) for name in missing])
        else:
            self.troubles.append(f"after {', '.join(names)}: {reason}")
            self._say(f"FAILED {self.troubles[-1]}")

    def _missing(self, names: Sequence[str]) -> list[str]:
        there = {row.name for row in self.rows}
        return [name for name in names if name not in there]

    def _keep(self, rows: Iterable[Row | FailedRow]) -> None:
        self.rows += rows
        write_rows(self.rows, self._file)


def _reason(error: Exception) -> str:
    if isinstance(error, EXPLAINED):
        return str(error)
    return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error, limit=-4))}".rstrip()
