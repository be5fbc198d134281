"""Parses DAG files in a process of its own and reports what the parse did, as JSON on stdout.

`python -m tests.dags.parse_probe FOLDER`. Anything that reaches outside while a file is imported (a connection, a
look-up of a name, a file opened for writing, another process) is seen by an audit hook (PEP 578), which can't be
taken off again: hence the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_FORBIDDEN_EVENTS = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "sqlite3.connect",
)


@dataclass
class ParseReport:
    """What one parse of a folder did."""

    seconds: dict[str, float] = field(default_factory=dict)
    dag_hashes: dict[str, str] = field(default_factory=dict)
    import_errors: dict[str, str] = field(default_factory=dict)
    outside: list[str] = field(default_factory=list)
    heavy_modules: list[str] = field(default_factory=list)


def heavy_libraries() -> list[str]:
    """The modules that ruff bans at the top of DAG files; one list for both checks."""
    settings = tomllib.loads((_ROOT / "pyproject.toml").read_text())
    banned: list[str] = settings["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
    return banned


def parse(folder: Path) -> ParseReport:
    """Import every DAG file of a folder and report."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization

    # Airflow's own first-time work (configuration, plugins) is not the files'.
    DagBag(dag_folder=os.devnull, collect_dags=False)
    _load_plugins()
    before = set(sys.modules)
    report = ParseReport()
    watching = [True]
    sys.addaudithook(lambda event, arguments: _watch(report, watching, event, arguments))
    bag = DagBag(dag_folder=folder, collect_dags=True)
    watching[0] = False
    report.import_errors = {str(file): text for file, text in bag.import_errors.items()}
    for row in bag.dagbag_stats:
        report.seconds[row.file.lstrip("/")] = row.duration.total_seconds()
    for dag_id, dag in sorted(bag.dags.items()):
        report.dag_hashes[dag_id] = SerializedDagModel.hash(DagSerialization.to_dict(dag))
    loaded = set(sys.modules) - before
    report.heavy_modules = sorted(library for library in heavy_libraries() if library in loaded)
    return report


def _load_plugins() -> None:
    from airflow import plugins_manager

    with contextlib.suppress(AttributeError):
        plugins_manager.ensure_plugins_loaded()


def _watch(report: ParseReport, watching: list[bool], event: str, arguments: tuple[Any, ...]) -> None:
    if not watching[0]:
        return
    if event == "open" and _is_writing(arguments):
        report.outside.append(f"opened {arguments[0]} for writing")
    elif event in _FORBIDDEN_EVENTS:
        report.outside.append(f"{event} {repr(arguments)[:200]}")


def _is_writing(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if not isinstance(path, str | bytes | os.PathLike) or "__pycache__" in os.fsdecode(path):
        return False  # A descriptor that is open already, or Python's own cache of compiled files.
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR))


if __name__ == "__main__":
    began = time.perf_counter()
    result = asdict(parse(Path(sys.argv[1])))
    result["total_seconds"] = time.perf_counter() - began
    sys.stdout.write("\n" + json.dumps(result) + "\n")
