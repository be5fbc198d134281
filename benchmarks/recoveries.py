"""Recoveries held against what a writer was told: a restore to a moment, and the loss of a whole site."""

from __future__ import annotations

import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from benchmarks.order import ENVIRONMENT
from benchmarks.rows import Row
from benchmarks.session import BenchmarkError, Session
from lab import (
    addresses,
    backups,
    commit_writer,
    estate,
    faults,
    nameserver,
    paths,
    postgres,
    secondary_site,
    site_faults,
)
from lab.accounts import DATABASE_USER, ids
from lab.airflow.settings import lab_settings
from lab.airflow.stack import LocalAirflow
from lab.commit_writer import DATABASE, TABLE, CommitWriter
from lab.hosts import ENVIRONMENTS, SECONDARY_SITE, has_secondary_site
from lab.secrets import lab_secrets
from lab.waiting import until

PITR: Final = "recovery.pitr_wrong_rows"
RTO, RPO = "recovery.failover_rto_seconds", "recovery.rpo_seconds"
DAG_ID: Final = f"restore_point_in_time.{ENVIRONMENT}"
QUESTION: Final = "approve_exchange"
ENDPOINT: Final = (addresses.address("dbendpoint"), addresses.POSTGRES_PORT)
# So many commits before the base, until the target, and after it.
COMMITS: Final = 200
# The first second after a set's end is not counted on (recovery/point_reach.py).
SET_END_SECONDS: Final = 1.2
RESTORE_TIMEOUT_SECONDS: Final = 300.0
DISASTER: Final = f"disaster_recovery.{ENVIRONMENT}"
DECISION: Final = "approve_recovery"


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


def measure_failover(session: Session) -> list[Row]:
    """Kill the primary site under write load, recover at the secondary one, and count; all is put back afterwards.

    The time is from the kill until users get a page from where DNS leads them; the loss, from the last acknowledged
    commit that is kept to the last one that is not. The baseline is the manual's recipe with what it has: reading its
    dump in again, without anything before or after; and the age of that dump.
    """
    password = lab_secrets().postgres_superuser
    with _secondary_site(session):
        with CommitWriter(ENDPOINT, "postgres", password) as writer:
            _written(writer, COMMITS)
            dumped_at, manual = time.time(), _read_in_again(postgres.primary_of_production())
            _written(writer, COMMITS)
            site_faults.kill_site("primary", airflow=False)
            killed_at = time.time()
            until(lambda: bool(writer.errors), "nobody can write any more", 30)
            writer.stop()
        served_at = _recovered(session)
        there = (addresses.address(secondary_site.STANDBY), addresses.POSTGRES_PORT)
        lost = writer.missing(there)
        kept = [each.at for each in writer.acknowledged if each not in lost]
    ended = writer.acknowledged[-1].at
    session.say(f"served {served_at - killed_at:.1f} s after the kill, {len(lost)} of {len(writer.acknowledged)} lost")
    return [
        Row(RTO, served_at - killed_at, manual, "s", 1),
        Row(RPO, max(0.0, ended - max(kept)) if lost else 0.0, ended - dumped_at, "s", 1),
    ]


@contextmanager
def _secondary_site(session: Session) -> Iterator[None]:
    """The lab with its secondary site, as Airflow knows it; production is where it was afterwards."""
    had_one = has_secondary_site()
    secondary_site.turn_on()
    estate.up(lambda line: session.say(f"lab: {line}"))
    until(lambda: DISASTER in {dag["dag_id"] for dag in session.client.dags()}, "Airflow knows the secondary site", 120)
    try:
        yield
    finally:
        faults.mend(wait_for_health=False)
        estate.reset((ENVIRONMENT,), lambda line: session.say(f"lab: {line}"))
        commit_writer.drop(ENDPOINT, "postgres", lab_secrets().postgres_superuser)
        if not had_one:
            estate.down_secondary_site(lambda line: session.say(f"lab: {line}"))


def _recovered(session: Session) -> float:
    """Recover, with an approval as soon as it is asked for. Returns when users were served, by what they get."""
    run_id = session.client.trigger(DISASTER, {"reason": "measured by the benchmarks", "type": "failover"})
    state = session.client.await_state(
        DISASTER, run_id, {"awaiting_input", "failed", "upstream_failed"}, task_id=DECISION,
        timeout_seconds=RESTORE_TIMEOUT_SECONDS,
    )  # fmt: skip
    if state != "awaiting_input":
        raise BenchmarkError(f"{DISASTER} run {run_id} came to no question: {DECISION} is {state}; see its log")
    with LocalAirflow(lab_settings()).client("approver") as approver:
        approver.answer(
            DISASTER, run_id, DECISION, ["Recover at the secondary site"], {"reason": "measured by the benchmarks"}
        )
    until(_is_served, "users are served by the secondary site", RESTORE_TIMEOUT_SECONDS)
    served_at = time.time()
    state = session.client.await_state(DISASTER, run_id, timeout_seconds=RESTORE_TIMEOUT_SECONDS)
    if state != "success":
        raise BenchmarkError(f"{DISASTER} run {run_id} ended as {state}; see its log")
    return served_at


def _is_served() -> bool:
    """Whether the resolver leads to the secondary site, and a page that reads rows answers there."""
    hostname = SECONDARY_SITE.hostname
    if nameserver.ask(nameserver.RESOLVER, hostname) != [addresses.address("lb3")]:
        return False
    context = ssl.create_default_context(cafile=str(paths.CA_FILE))
    try:
        with (
            socket.create_connection((addresses.address("lb3"), addresses.HTTPS_PORT), 3) as plain,
            context.wrap_socket(plain, server_hostname=hostname) as line,
        ):
            line.sendall(f"GET /api/v1/projects HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode())
            return line.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _read_in_again(primary: str) -> float:
    """How long the manual's way takes with its dump of now: gunzip and psql, into a new database beside."""
    environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": lab_secrets().postgres_superuser}
    place = ["--host", addresses.address(primary), "--port", str(addresses.POSTGRES_PORT), "--username", "postgres"]
    database, beside = ENVIRONMENTS[ENVIRONMENT].database_name, "benchmark_read_in_again"
    with tempfile.TemporaryDirectory() as directory, postgres.connect(primary) as cursor:
        file = Path(directory) / "dump.sql"
        command = [str(paths.POSTGRES_BIN / "pg_dump"), *place, "--file", str(file), database]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        cursor.execute(f"DROP DATABASE IF EXISTS {beside}")
        began = time.monotonic()
        cursor.execute(f"CREATE DATABASE {beside}")
        command = [str(paths.POSTGRES_BIN / "psql"), *place, "-Xq", "--dbname", beside, "--file", str(file)]
        read = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        cursor.execute(f"DROP DATABASE {beside}")
    if done.returncode != 0 or read.returncode != 0:
        raise BenchmarkError(f"{primary}: the manual's dump failed: {(done.stderr + read.stderr).strip()[-300:]}")
    return took


def _written(writer: CommitWriter, more: int) -> None:
    wanted = len(writer.acknowledged) + more
    until(
        lambda: len(writer.acknowledged) >= wanted,
        f"{more} commits were acknowledged",
        120,
        progress=lambda: len(writer.acknowledged),
    )


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
