"""``python -m benchmarks [--only NAME]``: every measurement beside its baseline, into `build/bench.json`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from benchmarks import (
    airflow_start,
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
from benchmarks.results import Results
from benchmarks.rows import Row, table
from benchmarks.session import Session, open_session
from lab import paths

RESULT = paths.CHECKOUT / "build" / "bench.json"

INTERRUPTED = 130

Measurement = Callable[[Session], Iterable[Row]]
Group = tuple[tuple[str, ...], Measurement]

# Each with the names of its rows, in the order in which they are measured: good releases before bad ones.
IN_THE_LAB: tuple[Group, ...] = (
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
NAMES = (PARSING, airflow_start.READY, *(name for names, _ in IN_THE_LAB for name in names), *IDLE)

_began = time.monotonic()


def say(line: str) -> None:
    """Print a line of progress at once, with the seconds since the start."""
    print(f"bench: {time.monotonic() - _began:5.0f} s  {line}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure; the exit code says only whether everything could be measured, never whether a number is good."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}")
    wanted = set(parser.parse_args(arguments).only or NAMES)
    results = Results(RESULT, say)
    # An earlier run's is not taken for this one's.
    RESULT.unlink(missing_ok=True)
    try:
        if PARSING in wanted:
            results.measure((PARSING,), lambda: parsing.measure(say))
        if airflow_start.READY in wanted:
            results.measure((airflow_start.READY,), lambda: airflow_start.measure(say))
        chosen = [group for group in IN_THE_LAB if wanted & set(group[0])]
        if chosen:
            _in_the_lab(chosen, results)
        if wanted & set(IDLE):
            results.measure(IDLE, lambda: idle.measure(say))
    except KeyboardInterrupt:
        say("interrupted: what comes here was measured before")
        _show(results)
        return INTERRUPTED
    _show(results)
    return results.exit_code


def _in_the_lab(chosen: Sequence[Group], results: Results) -> None:
    """Measure one after the other, each in an estate that is in order; one that fails costs the others nothing."""
    names = [name for group, _ in chosen for name in group]
    try:
        with open_session(say) as session:
            for group, measure in chosen:
                results.measure(group, partial(_in_order, session, measure))
            session.bring_to_order()
    except Exception as error:
        # It did not come up, or not down again.
        results.fail(names, error)


def _in_order(session: Session, measure: Measurement) -> Iterator[Row]:
    session.bring_to_order()
    yield from measure(session)


def _show(results: Results) -> None:
    if not results.rows:
        return
    print(f"\n{table(results.rows)}\n")
    say(f"written to {RESULT.relative_to(paths.CHECKOUT)}; docs/benchmarks.md says what each row means")
    if results.failed:
        say(
            f"{len(results.failed)} of {len(results.rows)} rows FAILED: {', '.join(row.name for row in results.failed)}"
        )
    for trouble in results.troubles:
        say(f"FAILED {trouble}")


if __name__ == "__main__":
    sys.exit(main())
