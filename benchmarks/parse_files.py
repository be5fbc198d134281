"""Parses DAG files as the DAG processor does, in a process of its own; prints seconds by file as JSON.

``python -m benchmarks.parse_files FOLDER ROUNDS``. The first round imports what the files import; it is reported apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path, rounds: int) -> None:
    """Print ``{"first": {file: seconds}, "later": {file: [seconds, ...]}}``."""
    from airflow.dag_processing.dagbag import DagBag

    first: dict[str, float] = {}
    later: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        bag = DagBag(dag_folder=folder, collect_dags=True)
        if bag.import_errors:
            raise SystemExit(f"DAG files can't be imported: {bag.import_errors}")
        for row in bag.dagbag_stats:
            seconds = row.duration.total_seconds()
            if number == 0:
                first[row.file] = seconds
            else:
                later.setdefault(row.file, []).append(seconds)
    sys.stdout.write("\n" + json.dumps({"first": first, "later": later}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
