"""The steps of a point-in-time restore until people decide: restored beside, checked, held against what is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.changes import ChangeRun
from sebenza_ops.recovery.point_plan import PointPlan, plan_point_restore, policy_of
from sebenza_ops.recovery.point_target import TargetRefusedError, moment_text
from sebenza_ops.recovery.run_record import RunRecord, await_job, job_key
from sebenza_ops.systems.database_server import DatabaseServer
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.point_restore import PointReport, PointRestore
from sebenza_ops.systems.ssh import HostSession, open_session
from sebenza_ops.systems.wal_archive import Rows, WalArchive

STRATEGY = "restore_point_in_time"
# More tables than people read; the rest is in the run's timeline.
SHOWN_TABLES = 40


class PointRestoreError(Exception):
    """The restored copy is not what it should be. The running database was not touched."""


class RestoredPoint(BaseModel):
    """A restored copy that passed its checks.

    Attributes:
        timeline: Its own.
        last_commit: Its last commit, in words.
        lsn: The position that was reached.
        socket: Directory of its Unix socket on the host.
        rows: The rows of every table by database and table, there.
        text: The question about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeline: int
    last_commit: str
    lsn: str
    socket: str
    rows: dict[str, dict[str, int]]
    text: str


def record_of(run: ChangeRun) -> RunRecord:
    """The run's record."""
    return RunRecord(run, STRATEGY)


def begin(run: ChangeRun, params: Mapping[str, Any]) -> PointPlan:
    """Make the run's record and its plan. Raises TargetRefusedError, OutsideSystemError."""
    record = record_of(run)
    record.start(f"restore to {params['target_type']} {params['target']}")
    known = record.progress()
    if known.get("state") == "swapped":
        raise TargetRefusedError("this run has put its restored copy in already: start a new run")
    if known.get("plan"):
        plan = PointPlan.model_validate(known["plan"])
        run.note(f"this run has chosen already: {plan.words}")
        return plan
    plan = plan_point_restore(run, params, job_key(run))
    record.gate("archive_reaches_target", [], f"{plan.target.words} lies within {plan.reach}")
    record.keep_plan(plan.model_dump(mode="json"))
    if not params.get("plan_only"):
        record.save(plan=plan.model_dump(mode="json"), state="planned")
    return plan


def on_host(run: ChangeRun, plan: PointPlan) -> Any:
    """A session of the plan's host, as the owner of the cluster."""
    return open_session(run.environment.host(plan.host), str(run.environment.database.ssh_conn_id))


def restore_beside(run: ChangeRun, plan: PointPlan, reason: str, excluded: Mapping[str, str]) -> RestoredPoint:
    """Restore into a new directory beside, check it, count it, and compare it with what is there now.

    Raises:
        JobFailedError: The restore has failed; what it has made is removed.
        PointRestoreError: What was restored is not the cluster that was asked for.
        OutsideSystemError: A host does not answer; a retry finds the job again.
    """
    record = record_of(run)
    record.save(state="restoring")
    with on_host(run, plan) as session:
        copy, archive = PointRestore(run.environment, session, plan.key), WalArchive(run.environment, session)
        started = copy.start(
            run.fence,
            plan.label,
            plan.target.kind.value,
            plan.target.setting,
            plan.follow_timeline,
            plan.need_bytes,
            exclusive=plan.target.exclusive,
        )
        run.note(f"restore {started}: {plan.words}, into {copy.restored}", host=plan.host)
        await_job(copy.status, "the restore", plan.host, float(policy_of(run.environment).timeout_seconds))
        report = copy.report()
        wrong = _why_not(run, plan, report)
        if not record.gate("restored_cluster", wrong, f"pg_amcheck and pg_checksums found nothing; {report.stopped}"):
            raise PointRestoreError(f"{copy.restored} on {plan.host} is not what was asked for: {'; '.join(wrong)}")
        then, now = archive.rows(report.socket), _rows_now(run, archive, session)
    last = moment_text(report.last_commit_at) if report.last_commit_at else "no commit after the set's own end"
    run.note(
        f"restored: {report.restored_bytes} bytes in {report.restore_seconds:.1f} s, WAL in "
        f"{report.replay_seconds:.1f} s, checked in {report.check_seconds:.1f} s; last commit {last}, at {report.lsn}",
        "success",
        host=plan.host,
    )
    text = question(plan, report, then, now, reason, run.holder.actor, excluded)
    record.save(state="restored", last_commit=last, lsn=report.lsn)
    return RestoredPoint(
        timeline=report.timeline,
        last_commit=last,
        lsn=report.lsn,
        socket=report.socket,
        rows={database: dict(tables) for database, tables in then.rows.items()},
        text=text,
    )


def _why_not(run: ChangeRun, plan: PointPlan, report: PointReport) -> list[str]:
    wrong = []
    if report.system_identifier != plan.system_identifier:
        wrong.append(f"it is the cluster {report.system_identifier}, not {plan.system_identifier}")
    if report.timeline <= plan.follow_timeline:
        wrong.append(f"it is on timeline {report.timeline}, which was there before")
    if plan.target.at is not None and report.last_commit_at is not None and report.last_commit_at > plan.target.at:
        wrong.append(f"its last commit is of {moment_text(report.last_commit_at)}, after the target")
    return wrong


def _rows_now(run: ChangeRun, archive: WalArchive, session: HostSession) -> Rows | None:
    """The rows of the running server; None when it can't be asked, which may be why it is to be replaced."""
    try:
        if not DatabaseServer(run.environment, session).state().is_primary:
            return None
        return archive.rows()
    except OutsideSystemError as error:
        run.note(f"the running database can't be counted: {error}", "warning")
        return None


def changes(then: Rows, now: Rows | None) -> list[str]:
    """Every table that has other rows than now, in words."""
    if now is None:
        return []
    texts = []
    for database in sorted({*then.rows, *now.rows}):
        if database not in then.rows:
            texts.append(f"database {database}: **will be gone**")
            continue
        before, after = then.rows[database], now.rows.get(database, {})
        texts += [
            f"{database} {table}: {_count(after, table)} now, **{_count(before, table)}** then"
            for table in sorted({*before, *after})
            if before.get(table) != after.get(table)
        ]
        revision, current = then.revisions.get(database), now.revisions.get(database)
        if revision != current:
            texts.append(
                f"{database}: schema revision {current} now, **{revision}** then: the release that runs must know it"
            )
    return texts


def _count(tables: Mapping[str, int], table: str) -> str:
    return f"{tables[table]} rows" if table in tables else "not there"


def question(
    plan: PointPlan,
    report: PointReport,
    then: Rows,
    now: Rows | None,
    reason: str,
    requested_by: str,
    excluded: Mapping[str, str],
) -> str:
    """Everything that is needed to decide, in Markdown."""
    last = moment_text(report.last_commit_at) if report.last_commit_at else "none after the set's own end"
    different = changes(then, now)
    total = sum(sum(tables.values()) for tables in then.rows.values())
    shown = [f"- {line}" for line in different[:SHOWN_TABLES]] or ["- every table has as many rows as now"]
    if now is None:
        shown = ["- the running database could not be counted"]
    if len(different) > SHOWN_TABLES:
        shown.append(f"- and {len(different) - SHOWN_TABLES} more")
    parts = [
        f"The whole database server of **{plan.environment}** goes back to **{plan.target.words}**: a copy from "
        f"{plan.label} is restored beside it on {plan.host}, checked, and takes its place when you approve.",
        f"- last commit in it: **{last}**\n- position {report.lsn}, its own timeline {report.timeline}\n"
        f"- {report.stopped or 'PostgreSQL says nothing of why it stopped there'}\n- {total} rows in "
        f"{sum(len(tables) for tables in then.rows.values())} tables",
        "### What differs from now\n\n" + "\n".join(shown),
        f"Look at it before: on {plan.host} as the owner of the cluster, `psql -h {report.socket}` (read-only).",
        f"**Everything that was committed after {last} leaves the database.** The directory of now is moved aside and "
        "kept, and a restore point is set before, so that a later restore can come back to it. Clients wait or get "
        f"errors for some seconds. {plan.replica} is made its replica afterwards. Rejecting removes the copy.",
        f"Requested by {requested_by}: {' '.join(reason.split())}",
    ]
    if plan.clock:
        parts.insert(1, f"**{plan.clock}.**")
    if excluded:
        parts.append("May not approve: " + ", ".join(f"{name} ({role})" for name, role in excluded.items()) + ".")
    return "\n\n".join(parts)
