"""`python -m lab.chaos`: the fault matrix; writes build/chaos.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

from lab import estate, paths
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.chaos.catalog import chosen
from lab.chaos.play import play
from lab.chaos.scenario import Result
from lab.chaos.stage import Stage
from lab.load.capacity import MachineTooSlowError

RESULT: Final = paths.CHECKOUT / "build" / "chaos.json"


def main() -> int:
    """Play scenarios; 1 when any was unsafe."""
    parser = argparse.ArgumentParser(prog="python -m lab.chaos", description="Break deployments on purpose.")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="names or patterns, for example 'marker-*'"
    )
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument("--output", type=Path, default=RESULT, help="where the results go (default: build/chaos.json)")
    arguments = parser.parse_args()
    try:
        scenarios = chosen(arguments.only)
    except KeyError as error:
        parser.error(str(error.args[0]))
    if arguments.list:
        for scenario in scenarios:
            print(f"{scenario.name:<48} {scenario.fault}")
        return 0
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"chaos: {time.monotonic() - began:6.1f} s  {line}", flush=True)

    if not estate.is_up():
        estate.up(say)
    airflow = LocalAirflow(lab_settings(), say)
    airflow.up()
    stage = Stage(airflow, say)
    results: list[Result] = []
    if not arguments.only:
        arguments.output.unlink(missing_ok=True)
    try:
        if any(scenario.has_load for scenario in scenarios):
            # Before anything is broken, or deployed.
            stage.prepare()
            say(f"users send {stage.rate - stage.own_rate:g} requests a second")
        for number, scenario in enumerate(scenarios, start=1):
            say(f"{number}/{len(scenarios)} {scenario.name}: {scenario.fault}")
            result = play(stage, scenario)
            say(f"{result.outcome}: {result.detail}")
            results.append(result)
            keep(result, arguments.output)
        # Production as others expect it; a scenario that demands gates leaves them to the next one.
        stage.demand_gates(False)
    except MachineTooSlowError as error:
        say(str(error))
        return 1
    finally:
        stage.close()
    unsafe = [result.name for result in results if not result.is_safe]
    say(f"{len(results)} played, {len(unsafe)} unsafe{': ' if unsafe else ''}{', '.join(unsafe)}; {arguments.output}")
    return 1 if unsafe else 0


def keep(result: Result, file: Path) -> None:
    """Add a scenario's result to those of earlier ones, in place of its own earlier one."""
    file.parent.mkdir(exist_ok=True)
    rows = json.loads(file.read_text()) if file.exists() else []
    rows = [row for row in rows if row["name"] != result.name] + [asdict(result)]
    file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
