"""Production as each measurement expects it, whatever the one before has left; and as it was found at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from lab import estate, paths
from lab.airflow.client import AirflowApiError
from lab.airflow.stack import LocalAirflow
from lab.chaos.stage import ENDED, SCHEDULED, Stage, StageError
from lab.waiting import LabError

ENVIRONMENT: Final = "production"
# What the benchmarks run beside what the fault matrix runs; some are there only with a secondary site.
MEASURED: Final = ("build_release", f"disaster_recovery.{ENVIRONMENT}", "benchmark_empty_chain")


@contextmanager
def in_order(airflow: LocalAirflow, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Gives what brings production to order: nothing broken, no run, no lease held, a good release live on one color.

    It raises StageError or LabError when that is not possible. Schedules and gates are afterwards as they were found.
    """
    stage = Stage(airflow, say)
    try:
        on = [dag_id for dag_id in SCHEDULED if not stage.admin.dag_details(dag_id)["is_paused"]]
        had_gates = paths.GATES_FILE.exists()
        try:
            yield lambda: _bring(stage, say)
        finally:
            for dag_id in on:
                stage.admin.set_paused(dag_id, False)
            stage.demand_gates(had_gates)
    finally:
        stage.close()


def _bring(stage: Stage, say: Callable[[str], None]) -> None:
    try:
        _prepare(stage)
    except (StageError, LabError, AirflowApiError, OSError) as error:
        say(f"production does not come to order ({error}): what is down is started, then once more")
        stage.airflow.up()
        estate.up(lambda line: say(f"lab: {line}"))
        _prepare(stage)


def _prepare(stage: Stage) -> None:
    known = {dag["dag_id"] for dag in stage.client.dags()}
    stage.ended = [dag_id for dag_id in (*ENDED, *MEASURED) if dag_id in known]
    stage.prepare()
