"""``python -m benchmarks [--only NAME]``: every measurement beside its baseline, into `build/bench.json`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from benchmarks import (
    airflow_tasks,
    backups,
    bad_releases,
    idle,
    parsing,
    recoveries,
    rollbacks,
    rolling,
    switching,
)
from benchmarks.rows import Row, table, write_rows
from benchmarks.session import BenchmarkError, Session, open_session
from lab import paths
from lab.airflow.client import AirflowApiError, AwaitTimeoutError
from lab.airflow.stack import AirflowUnavailableError
from lab.waiting import LabError

RESULT = paths.CHECKOUT / "build" / "bench.json"

Measurement = Callable[[Session], list[Row]]

# Each with the names of its rows, in the order in which they are measured: good releases before bad ones.
IN_THE_LAB: tuple[tuple[tuple[str, ...], Measurement], ...] = (
    (("airflow.task_overhead_seconds",), airflow_tasks.measure),
    (
        ("blue_green.failed_requests", "blue_green.requests_to_old_color", "blue_green.dag_wall_seconds"),
        switching.measure,
    ),
    (("rolling.failed_requests", "rolling.dag_wall_seconds"), rolling.measure),
    (("rollback.warm_seconds", "rollback.cold_seconds", "rollback.failed_requests"), rollbacks.measure),
    (
        (
            "backup.wall_seconds",
            "backup.stored_bytes",
            "restore.wall_seconds",
            "backup.dag_wall_seconds",
            "restore.dag_wall_seconds",
        ),
        backups.measure,
    ),
    ((recoveries.PITR,), recoveries.measure),
    ((recoveries.RTO, recoveries.RPO), recoveries.measure_failover),
    (("blue_green.bad_release_to_safe_seconds",), bad_releases.measure_late_5xx),
    (("blue_green.slow_release_to_safe_seconds",), bad_releases.measure_slow),
)
PARSING = "dags.parse_seconds_per_file"
# With the lab and Airflow to themselves.
IDLE = (idle.LAB_ROW, idle.AIRFLOW_ROW)
NAMES = (PARSING, *(name for names, _ in IN_THE_LAB for name in names), *IDLE)

_began = time.monotonic()


def say(line: str) -> None:
    """Print a line of progress at once, with the seconds since the start."""
    print(f"bench: {time.monotonic() - _began:5.0f} s  {line}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code says only whether everything could be measured, never whether a number is good."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    wanted = set(parser.parse_args(arguments).only or NAMES)
    rows: list[Row] = []
    try:
        if PARSING in wanted:
            rows += parsing.measure(say)
        chosen = [measure for names, measure in IN_THE_LAB if wanted & set(names)]
        if chosen:
            _in_the_lab(chosen, rows)
        if wanted & set(IDLE):
            rows += idle.measure(say)
    except (BenchmarkError, LabError, AirflowApiError, AirflowUnavailableError, AwaitTimeoutError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    finally:
        if rows:
            write_rows(rows, RESULT)
    print(f"\n{table(rows)}\n")
    say(f"written to {RESULT.relative_to(paths.CHECKOUT)}; docs/benchmarks.md says what each row means")
    return 0


def _in_the_lab(chosen: list[Measurement], rows: list[Row]) -> None:
    """Append to `rows` as they come: what was measured before a failure is kept."""
    with open_session(say) as session:
        for measure in chosen:
            rows += measure(session)


if __name__ == "__main__":
    sys.exit(main())
