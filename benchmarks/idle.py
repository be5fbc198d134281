"""What the lab and Airflow cost while nothing happens: seconds of CPU in a minute, summed over their processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from benchmarks.rows import Row
from benchmarks.session import BenchmarkError
from lab import estate, paths
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.waiting import scaled, until

LAB_ROW: Final = "lab.cpu_seconds_per_idle_minute"
AIRFLOW_ROW: Final = "airflow.cpu_seconds_per_idle_minute"
# The last commit before anybody had looked at what idling costs.
BASE_COMMIT: Final = "ef039d3"
# Starting leaves things to do: first parses, first scrapes, checkpoints.
SETTLE_SECONDS: Final = 30.0
MEASURED_SECONDS: Final = 120.0
PARSE_SECONDS: Final = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Idle:
    """Seconds of CPU in an idle minute.

    Args:
        hosts: of the lab's hosts, all their services included.
        airflow: of Airflow.
    """

    hosts: float
    airflow: float


def measure(say: Say) -> Iterator[Row]:
    """Airflow beside one that has no DAGs; then this checkout's lab with Airflow, beside those of `BASE_COMMIT`.

    One after the other, as there is one network and one port; afterwards runs what ran before.

    Raises:
        BenchmarkError: the base commit is not there, or its lab does not come up.
    """
    with _as_found(say) as airflow:
        say("idle: this checkout")
        ours = _idle(paths.LAB_DIR, say)
        ours = replace(ours, airflow=ours.airflow + _parsing_per_minute(airflow))
        airflow.down()
        say("idle: an Airflow without DAGs")
        yield _row(AIRFLOW_ROW, ours.airflow, _without_dags(say))
        estate.down(lambda line: say(f"lab: {line}"))
        say(f"idle: the lab and Airflow of {BASE_COMMIT}")
        with _base_checkout() as base:
            theirs = _of_base(base, say)
    yield _row(LAB_ROW, ours.hosts + ours.airflow, theirs.hosts + theirs.airflow)
    yield _row(f"{LAB_ROW}.hosts", ours.hosts, theirs.hosts)


def _row(name: str, value: float, baseline: float) -> Row:
    return Row(name, round(value, 2), round(baseline, 2), "s", 1)


# --- measuring


def _idle(lab_dir: Path, say: Say) -> Idle:
    """Seconds of CPU in a minute of everything below the supervisors of a lab's directory."""
    hosts, airflow = sorted(lab_dir.glob("hosts/*/run/supervisord.pid")), [lab_dir / "airflow" / "supervisord.pid"]
    # Time itself is what is measured: nothing is awaited here.
    time.sleep(SETTLE_SECONDS)
    began, before = time.monotonic(), [_cpu_seconds(files) for files in (hosts, airflow)]
    time.sleep(MEASURED_SECONDS)
    minutes, after = (time.monotonic() - began) / 60, [_cpu_seconds(files) for files in (hosts, airflow)]
    spent = [(later - earlier) / minutes for earlier, later in zip(before, after, strict=True)]
    say(f"idle: {spent[0]:.2f} s a minute of the hosts, {spent[1]:.2f} s of Airflow")
    return Idle(*spent)


def _cpu_seconds(pid_files: list[Path]) -> float:
    """What the trees of the processes have used since they began, children that have ended included."""
    total = 0.0
    for file in pid_files:
        try:
            root = psutil.Process(int(file.read_text()))
            family = [root, *root.children(recursive=True)]
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess) as error:
            raise BenchmarkError(
                f"{file}: the supervisor does not run, so nothing can be measured ({error})"
            ) from error
        total += sum(_of_process(process) for process in family)
    return total


def _of_process(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        # It has just ended: its parent has its time.
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


def _parsing_per_minute(airflow: LocalAirflow) -> float:
    """A minute's share of the turn in which the DAG processor parses every file, which is rarer than we measure."""
    interval_seconds = float(airflow.settings.sections()["dag_processor"]["min_file_process_interval"])
    if interval_seconds <= MEASURED_SECONDS:
        return 0.0
    root = psutil.Process(airflow.supervision.pid("dag-processor"))

    def spent() -> float:
        return sum(_of_process(process) for process in [root, *root.children(recursive=True)])

    before, since = spent(), datetime.now(UTC)
    with airflow.client("admin") as client:
        files = {dag["fileloc"]: dag["dag_id"] for dag in client.dags()}
        for dag_id in files.values():
            client.parse_again(dag_id)

        def all_parsed() -> bool:
            return all(datetime.fromisoformat(dag["last_parsed_time"]) >= since for dag in client.dags())

        what = f"Airflow has parsed its {len(files)} files again"
        until(all_parsed, what, PARSE_SECONDS, poll_seconds=1, error=BenchmarkError)
    return (spent() - before) * 60 / interval_seconds


# --- what is measured


@contextmanager
def _as_found(say: Say) -> Iterator[LocalAirflow]:
    """The lab and Airflow of this checkout, up; afterwards what ran before runs, and nothing else."""
    lab_was_up = estate.is_up()
    airflow = LocalAirflow(lab_settings(), say=lambda line: say(f"airflow: {line}"))
    airflow_was_up = airflow.supervision.process() is not None

    def report(line: str) -> None:
        say(f"lab: {line}")

    try:
        estate.up(report)
        airflow.up()
        yield airflow
    finally:
        airflow.down()
        if lab_was_up:
            estate.up(report)
        else:
            estate.down(report)
        if airflow_was_up:
            airflow.up()


def _without_dags(say: Say) -> float:
    """The same Airflow, with the same settings, on the same port, without a DAG."""
    with tempfile.TemporaryDirectory(prefix="sebenza-benchmark-") as directory:
        lab_dir = Path(directory)
        (lab_dir / "dags").mkdir()
        settings = replace(lab_settings(), home=lab_dir / "airflow", dags_folders=(lab_dir / "dags",))
        airflow = LocalAirflow(settings, say=lambda line: say(f"airflow: {line}"))
        try:
            airflow.up()
            return _idle(lab_dir, say).airflow
        finally:
            airflow.down()


@contextmanager
def _base_checkout() -> Iterator[Path]:
    """The files of `BASE_COMMIT` with this checkout's packages. Raises BenchmarkError when there is no such commit."""
    build = paths.CHECKOUT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="base-", dir=build) as directory:
        base = Path(directory)
        # Services that are not root's have their files below.
        base.chmod(0o755)
        archive = ["git", "-C", str(paths.CHECKOUT), "archive", BASE_COMMIT]
        packed = subprocess.run(archive, capture_output=True, check=False)
        if packed.returncode != 0:
            why = packed.stderr.decode(errors="replace").strip()
            raise BenchmarkError(
                f"the baseline of {LAB_ROW} is commit {BASE_COMMIT}, which this clone does not have ({why}): "
                f"`git fetch --unshallow` gets it"
            )
        subprocess.run(["tar", "-x", "-C", str(base)], input=packed.stdout, check=True)
        (base / ".venv").symlink_to(Path(sys.prefix))
        (base / "lab/node/node_modules").symlink_to(paths.CHECKOUT / "lab/node/node_modules")
        yield base


def _of_base(base: Path, say: Say) -> Idle:
    try:
        for command in ("lab", "lab.airflow"):
            _run(base, command, "up")
        return _idle(base / ".lab", say)
    finally:
        for command in ("lab.airflow", "lab"):
            _run(base, command, "down")


def _run(base: Path, module: str, command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "SEBENZA_LAB_DIR"}
    environment["PYTHONPATH"] = f"{base / 'plugins'}:{base}"
    ended = subprocess.run(
        [sys.executable, "-m", module, command],
        cwd=base,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=scaled(900),
    )
    if ended.returncode != 0:
        raise BenchmarkError(f"`python -m {module} {command}` of {BASE_COMMIT} failed:\n{ended.stdout.strip()[-2000:]}")
