"""A restore to a moment, held against what a writer was told until then: the rows that are wrong in the copy."""

from __future__ import annotations

import subprocess
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.rows import Row
from benchmarks.session import ENVIRONMENT, BenchmarkError, Session
from lab import addresses, backups, commit_writer, paths, postgres
from lab.accounts import DATABASE_USER, ids
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.commit_writer import DATABASE, TABLE, CommitWriter
from lab.secrets import lab_secrets
from lab.waiting import until

PITR: Final = "recovery.pitr_wrong_rows"
DAG_ID: Final = f"restore_point_in_time.{ENVIRONMENT}"
QUESTION: Final = "approve_exchange"
ENDPOINT: Final = (addresses.address("dbendpoint"), addresses.POSTGRES_PORT)
# So many commits before the base, until the target, and after it.
COMMITS: Final = 200
# The first second after a set's end is not counted on (recovery/point_reach.py).
SET_END_SECONDS: Final = 1.2
RESTORE_TIMEOUT_SECONDS: Final = 300.0


def measure(session: Session) -> list[Row]:
    """Restore to a moment under write load, and count; the copy is rejected, production stays as it is.

    The baseline is the manual's recipe with what it has: the dump that it takes for the base, which no WAL can bring
    further.
    """
    primary = postgres.primary_of_production()
    password = lab_secrets().postgres_superuser
    try:
        with CommitWriter(ENDPOINT, "postgres", password) as writer:
            _written(writer, COMMITS)
            made = backups.run(primary, "--type=full", "backup", timeout_seconds=240)
            if made.returncode != 0:
                raise BenchmarkError(
                    f"{primary}: pgBackRest makes no base: {(made.stderr or made.stdout).strip()[-400:]}"
                )
            by_dump = _dumped(primary)
            _written(writer, COMMITS)
            # The time itself is awaited.
            time.sleep(SET_END_SECONDS)
            moment = time.time()
            _written(writer, COMMITS)
        session.say(f"restoring to {moment:.3f}, {len(writer.acknowledged)} commits were acknowledged")
        ours = writer.wrong_rows(_restored(session, primary, moment), moment)
        theirs = writer.wrong_rows(by_dump, moment)
    finally:
        commit_writer.drop(ENDPOINT, "postgres", password)
    session.say(f"wrong rows: {ours.missing_before} missing and {ours.present_after} too many")
    return [Row(PITR, float(ours.count), float(theirs.count), "rows", 1)]


def _written(writer: CommitWriter, more: int) -> None:
    wanted = len(writer.acknowledged) + more
    until(lambda: len(writer.acknowledged) >= wanted, f"{more} commits were acknowledged", 120)


def _restored(session: Session, primary: str, moment: float) -> set[int]:
    """The commits in the copy that the procedure shows before anybody decides; it is rejected afterwards."""
    target = datetime.fromtimestamp(moment, UTC).isoformat()
    run_id = session.client.trigger(DAG_ID, {"target": target, "reason": "measured by the benchmarks"})
    state = session.client.await_state(
        DAG_ID, run_id, {"awaiting_input", "failed", "upstream_failed"}, task_id=QUESTION,
        timeout_seconds=RESTORE_TIMEOUT_SECONDS,
    )  # fmt: skip
    if state != "awaiting_input":
        raise BenchmarkError(f"{DAG_ID} run {run_id} came to no copy: {QUESTION} is {state}; see its log")
    copy = session.client.xcom(DAG_ID, run_id, "restore_beside")
    try:
        return _numbers(str(copy["socket"]))
    finally:
        with LocalAirflow(lab_settings()).client("approver") as approver:
            approver.answer(DAG_ID, run_id, QUESTION, ["Reject"])
        session.client.await_state(DAG_ID, run_id, timeout_seconds=120)


def _dumped(primary: str) -> set[int]:
    """The commits in a dump of now: what the manual's restore begins with, and ends with."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "dump.sql"
        environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": lab_secrets().postgres_superuser}
        place = ["--host", addresses.address(primary), "--port", str(addresses.POSTGRES_PORT), "--username", "postgres"]
        command = [str(paths.POSTGRES_BIN / "pg_dump"), *place, "--data-only", "--table", TABLE, "--file", str(file)]
        done = subprocess.run([*command, DATABASE], env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{primary}: pg_dump of the writer's table failed: {done.stderr.strip()[-300:]}")
        return {int(line) for line in file.read_text().splitlines() if line.isdigit()}


def _numbers(socket: str) -> set[int]:
    """The commits in a copy, asked as the cluster's owner by its Unix socket."""
    user_id, group_id = ids(DATABASE_USER)
    command = [str(paths.POSTGRES_BIN / "psql"), "-XAtq", "--host", socket, "--port", "5432", "--dbname", DATABASE]
    done = subprocess.run(
        [*command, "--command", f"SELECT number FROM {TABLE}"],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        user=user_id,
        group=group_id,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkError(f"the restored copy can't be asked: {done.stderr.strip()[-300:]}")
    return {int(line) for line in done.stdout.split()}
