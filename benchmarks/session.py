"""The lab and the local Airflow as the benchmarks need them, and left as they were found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.order import ENVIRONMENT, in_order
from lab import addresses, checker, estate, paths
from lab.airflow.client import AirflowClient
from lab.airflow.follow import failure_report
from lab.airflow.settings import AirflowSettings, lab_settings
from lab.airflow.stack import LocalAirflow
from lab.load.capacity import capacity_for
from lab.load.generator import LoadGenerator

LOAD_BALANCERS: Final = ("lb1", "lb2")
SCRATCH_DAGS: Final = Path(__file__).with_name("dags")
SCRATCH_DAG_ID: Final = "benchmark_empty_chain"
# Where the machine serves twice as much.
MAXIMUM_PER_SECOND: Final = 200.0
# Traffic on the old color, before anything happens.
LEAD_SECONDS: Final = 2.0
# Without a change of any task of the run, by this machine's measure (lab/waiting.py).
RUN_TIMEOUT_SECONDS: Final = 300.0


class BenchmarkError(Exception):
    """A measurement could not be made; says what failed and what to do. No number is better than a wrong one."""


@dataclass(frozen=True)
class Session:
    """What measurements use.

    Args:
        client: Airflow's API as the operator.
        say: gets one line of progress at a time.
        bring_to_order: makes production what a measurement expects, whatever the one before has left; see `order`.
    """

    client: AirflowClient
    say: Callable[[str], None]
    bring_to_order: Callable[[], None]

    def run(self, dag_id: str, conf: dict[str, object], *, expected: str = "success") -> str:
        """Run a procedure to its end; its run id. Raises BenchmarkError when it ends otherwise than expected."""
        run_id = self.client.trigger(dag_id, conf)
        state = self.client.await_state(dag_id, run_id, timeout_seconds=RUN_TIMEOUT_SECONDS)
        if state != expected:
            why = "\n".join(failure_report(self.client, dag_id, run_id))
            raise BenchmarkError(f"{dag_id} run {run_id} ended as {state}, expected {expected}:\n{why}")
        return run_id

    def live(self) -> checker.Verdict:
        """Production as the checker sees it. Raises BenchmarkError unless one color is live."""
        verdict = checker.check(ENVIRONMENT)
        if not verdict.exactly_one_live or verdict.release is None:
            raise BenchmarkError(
                f"{ENVIRONMENT} is not in order ({'; '.join(verdict.problems)}): "
                f"`python -m lab mend`, or `python -m lab reset {ENVIRONMENT}`"
            )
        return verdict


@contextmanager
def open_session(say: Callable[[str], None]) -> Iterator[Session]:
    """Bring the lab and Airflow (with the scratch DAG) up; afterwards stop what did not run before."""
    lab_was_up = estate.is_up()
    settings = lab_settings()
    airflow = LocalAirflow(settings, say=lambda line: say(f"airflow: {line}"))
    airflow_was_up = airflow.supervision.process() is not None
    measured = LocalAirflow(_with_scratch(settings), say=lambda line: say(f"airflow: {line}"))
    try:
        estate.up(lambda line: say(f"lab: {line}"))
        if airflow_was_up and not _has_scratch(airflow):
            say("airflow: starting anew, with the benchmarks' own DAG")
            airflow.down()
        measured.up()
        with measured.client("operator") as client, in_order(measured, say) as bring_to_order:
            yield Session(client, say, bring_to_order)
    finally:
        measured.down()
        if airflow_was_up:
            airflow.up()
        if not lab_was_up:
            estate.down(lambda line: say(f"lab: {line}"))


def _with_scratch(settings: AirflowSettings) -> AirflowSettings:
    return replace(settings, dags_folders=(*settings.dags_folders, SCRATCH_DAGS))


def _has_scratch(airflow: LocalAirflow) -> bool:
    with airflow.client("operator") as client:
        return any(dag["dag_id"] == SCRATCH_DAG_ID for dag in client.dags())


@cache
def rate() -> float:
    """Requests a second of every load of this process, so that what is compared was measured under the same one.

    Raises MachineTooSlowError, a LabError, when the estate serves too little here.
    """
    capacity = capacity_for(MAXIMUM_PER_SECOND, _say)
    chosen = capacity.rate(MAXIMUM_PER_SECOND)
    _say(f"{capacity.summary()}; loads have {chosen:g}")
    return chosen


def _say(line: str) -> None:
    print(f"bench: {line}", flush=True)


def new_load() -> LoadGenerator:
    """Load on production's load balancers; nothing is sent before it is started."""
    return LoadGenerator(
        load_balancers={name: (addresses.address(name), addresses.HTTPS_PORT) for name in LOAD_BALANCERS},
        ca_file=paths.CA_FILE,
        rate=rate(),
    )


@contextmanager
def under_load() -> Iterator[LoadGenerator]:
    """Load that has run for a moment already; what is measured happens inside the block.

    Raises BenchmarkError when requests failed before anything has begun: what follows would not be the change's doing.
    """
    with new_load() as load:
        # The time itself is awaited: so many seconds of traffic before the change.
        time.sleep(LEAD_SECONDS)
        if bad := load.progress()["failed"] + load.progress()["shed"]:
            raise BenchmarkError(
                f"{bad} requests failed or could not be sent under {rate():g} a second, with nothing going on: "
                "this machine is busy with something else; end that, and measure again"
            )
        yield load
