"""How long a DAG file takes to parse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.rows import Row
from benchmarks.session import BenchmarkError
from lab import paths
from lab.waiting import scaled

ROUNDS: Final = 5
EMPTY_DAG: Final = """
from airflow.sdk import dag

from sebenza_ops.procedures import START_DATE


@dag(dag_id="empty", schedule=None, start_date=START_DATE)
def empty() -> None: ...


empty()
"""


def measure(say: Callable[[str], None]) -> list[Row]:
    """The slowest file (its median of several parses), once its imports are there, beside a file with an empty DAG.

    A second row is the slowest first parse, imports of this project included: what a new process pays.
    """
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-") as directory:
        (Path(directory) / "empty.py").write_text(EMPTY_DAG)
        ours, empty = _parse(paths.CHECKOUT / "dags"), _parse(Path(directory))
    by_file = {file: median(seconds) for file, seconds in ours["later"].items()}
    slowest = max(by_file, key=lambda file: by_file[file])
    say(f"{len(by_file)} DAG files; the slowest is {slowest.lstrip('/')}")
    baseline = median(seconds for each in empty["later"].values() for seconds in each)
    first, first_empty = max(ours["first"].values()), max(empty["first"].values())
    return [
        Row("dags.parse_seconds_per_file", round(by_file[slowest], 4), round(baseline, 4), "s", ROUNDS),
        Row("dags.parse_seconds_per_file.first", round(first, 3), round(first_empty, 3), "s", 1),
    ]


def _parse(folder: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-airflow-") as home:
        environment = os.environ | {
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONPATH": f"{paths.CHECKOUT / 'plugins'}:{paths.CHECKOUT}",
        }
        command = [sys.executable, "-m", "benchmarks.parse_files", str(folder), str(ROUNDS)]
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=scaled(120)
        )
    if ended.returncode != 0:
        raise BenchmarkError(f"{folder} could not be parsed:\n{ended.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found
