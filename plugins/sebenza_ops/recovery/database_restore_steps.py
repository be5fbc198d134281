"""The steps of a restore into a new database; the operators call these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import OutcomeFact
from sebenza_ops.ledger import BackupKind, BackupSet, Outcome
from sebenza_ops.recovery.database_restore import (
    DUMP,
    FILES,
    DatabaseRestorePlan,
    DatabaseRestoreRefusedError,
    choose_set,
    differences,
    offer,
    refuse_space,
    refuse_target,
)
from sebenza_ops.recovery.point_plan import find_primary, policy_of
from sebenza_ops.recovery.run_record import RunRecord, await_job, job_key
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.database_restore import BackupManifest, DatabaseRestore, parse_backup_manifest
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.point_restore import PointRestore
from sebenza_ops.systems.ssh import HostSession, open_session
from sebenza_ops.systems.wal_archive import WalArchive

STRATEGY = "restore_database"
AUDIT_ACTION = "database.restored_beside"


class RestoredDiffersError(Exception):
    """What was restored is not what was backed up; it is removed."""


def record_of(run: ChangeRun) -> RunRecord:
    """The run's record."""
    return RunRecord(run, STRATEGY)


def sets_of(run: ChangeRun) -> list[BackupSet]:
    """The sets of the catalog, of both kinds."""
    catalog, name = run.ledger.backup_sets, run.environment.name
    return [*catalog.present(name, BackupKind.LOGICAL), *catalog.present(name, BackupKind.PHYSICAL)]


def read_manifest(storage: ObjectStorage, key: str) -> BackupManifest:
    """The manifest of a set. Raises DatabaseRestoreRefusedError when it is gone; NoDataError."""
    found = storage.get_json(key)
    if found is None:
        raise DatabaseRestoreRefusedError(f"the manifest {key} is no longer in object storage. Nothing was started")
    return parse_backup_manifest(found, key)


def begin(run: ChangeRun, params: Mapping[str, Any]) -> DatabaseRestorePlan:
    """Make the run's record, choose the set and the host. Starts no restore.

    Raises:
        DatabaseRestoreRefusedError, TargetRefusedError: It can't be; nothing was started.
        OutsideSystemError: A host or object storage does not answer.
    """
    environment, record = run.environment, record_of(run)
    target = str(params["target_database"])
    record.start(f"restore {params.get('set') or 'the newest set'} into {target}")
    known = record.progress()
    if known.get("plan"):
        plan = DatabaseRestorePlan.model_validate(known["plan"])
        if known.get("state") == "published":
            raise DatabaseRestoreRefusedError(f"this run has made {plan.target} already: start a new run")
        run.note(f"this run has chosen already: {plan.words}")
        return plan
    present = sets_of(run)
    run.note(f"verified sets: {offer([each for each in present if each.is_good])}")
    chosen = choose_set(present, str(params.get("set") or ""), str(params.get("source") or "auto"))
    primary, _ = find_primary(environment)
    source = DUMP if chosen.kind is BackupKind.LOGICAL else FILES
    key = str(chosen.detail["manifest"])
    manifest = read_manifest(ObjectStorage(environment.object_store), key)
    if source == DUMP and not manifest.pieces:
        raise DatabaseRestoreRefusedError(f"the manifest {key} names no dump. Nothing was started")
    files_bytes = chosen.size_bytes * 11 // 10 if source == FILES else 0
    # Tables without their indexes, compressed: rarely half of the database.
    stored_bytes = sum(piece.size_bytes for piece in manifest.pieces) if source == DUMP else manifest.size_bytes // 2
    with open_session(environment.host(primary.host), str(environment.database.ssh_conn_id)) as session:
        restore, archive = DatabaseRestore(environment, session, job_key(run)), WalArchive(environment, session)
        refuse_target(target, restore.databases())
        refuse_space(archive.room(), stored_bytes, manifest, files_bytes, policy_of(environment).minimum_free_bytes)
    plan = DatabaseRestorePlan(
        environment=environment.name,
        key=job_key(run),
        host=primary.host,
        label=chosen.label,
        source=source,
        manifest=key,
        made_at=manifest.at,
        target=target,
        lsn=manifest.lsn,
        timeline=int(str(chosen.detail.get("wal_stop") or "00000001")[:8], 16),
        files_bytes=files_bytes + policy_of(environment).minimum_free_bytes,
    )
    record.keep_plan(plan.model_dump(mode="json"))
    if not params.get("plan_only"):
        record.save(plan=plan.model_dump(mode="json"), state="planned")
    run.note(f"planned: {plan.words}", host=plan.host)
    return plan


def restore_into(run: ChangeRun, plan: DatabaseRestorePlan) -> dict[str, Any]:
    """Restore under a name of its own, compare with the manifest, and give it its name. Returns what was found.

    Raises:
        JobFailedError: A part has failed.
        RestoredDiffersError: It is not what was backed up.
        OutsideSystemError: A host or object storage does not answer; a retry goes on.
    """
    environment, record = run.environment, record_of(run)
    storage = ObjectStorage(environment.object_store)
    manifest = read_manifest(storage, plan.manifest)
    seconds = float(policy_of(environment).timeout_seconds)
    record.save(state="restoring")
    with open_session(environment.host(plan.host), str(environment.database.ssh_conn_id)) as session:
        restore, archive = DatabaseRestore(environment, session, plan.key), WalArchive(environment, session)
        socket = ""
        if plan.source == DUMP:
            if restore.status().state == "absent":
                restore.fetch(storage, manifest.pieces)
                run.note(f"{sum(piece.size_bytes for piece in manifest.pieces)} bytes fetched, each SHA-256 right")
        else:
            socket = _files(run, plan, session, seconds)
        run.note(f"restore {restore.start(run.fence, socket)}, into {restore.restored}", host=plan.host)
        job = await_job(restore.status, "the restore", plan.host, seconds)
        oid = restore.oid()
        found = archive.rows(database=restore.restored)
        wrong = differences(manifest, found, restore.restored)
        tables, rows = len(manifest.rows), sum(manifest.rows.values())
        good = f"{tables} tables, {rows} rows, schema revision {manifest.schema_revision}: as in the manifest"
        if not record.gate("manifest", wrong, good):
            reason = f"restored, it is not what was backed up: {'; '.join(wrong)}"
            if plan.source == DUMP:
                run.ledger.backup_sets.mark_bad(environment.name, BackupKind.LOGICAL, plan.label, reason, run.holder)
            raise RestoredDiffersError(f"{plan.label}: {reason}. Nothing is left of it; choose another set")
        run.note(f"{restore.publish(run.fence, plan.target, oid)} as {plan.target}", "success", host=plan.host)
    record.save(state="published")
    kind = BackupKind.LOGICAL if plan.source == DUMP else BackupKind.PHYSICAL
    run.ledger.backup_sets.mark_restored(environment.name, kind, plan.label)
    run.ledger.audit.append(
        AUDIT_ACTION, run.holder.actor, environment.name, plan.target, {"run": str(run.holder), "set": plan.label}
    )
    run.note(f"{plan.target}: {good}, restored in {job.seconds:.1f} s", "success", host=plan.host)
    return {"database": plan.target, "set": plan.label, "rows": rows, "tables": tables, "seconds": job.seconds}


def _files(run: ChangeRun, plan: DatabaseRestorePlan, session: HostSession, seconds: float) -> str:
    """Bring the files of the set back beside, up to the manifest's position. Returns the directory of the socket."""
    copy = PointRestore(run.environment, session, plan.key)
    started = copy.start(run.fence, plan.label, "lsn", plan.lsn, plan.timeline, plan.files_bytes)
    run.note(f"restore of the files {started}, into {copy.restored}", host=plan.host)
    await_job(copy.status, "the restore of the files", plan.host, seconds)
    return copy.report().socket


def finish(run: ChangeRun, failed: Sequence[str], *, plan_only: bool, may_settle: bool) -> str:
    """Remove what has no name, record the outcome, store the evidence. Returns the summary."""
    holder, ledger, name, record = run.holder, run.ledger, run.environment.name, record_of(run)
    known = record.progress()
    plan = DatabaseRestorePlan.model_validate(known["plan"]) if known.get("plan") else None
    amiss = _settle(run, plan) if plan is not None and may_settle else []
    state = str(known.get("state") or "")
    if state == "published" and plan is not None:
        outcome, text = Outcome.SUCCEEDED, f"{plan.target} holds {plan.label} as it was backed up, on {plan.host}"
    elif failed:
        outcome = Outcome.FAILED if state == "restoring" else Outcome.REFUSED
        text = f"{failed[0]} failed; there is no new database, and no other one was touched"
    else:
        outcome = Outcome.PLANNED if plan_only else Outcome.FAILED
        text = "planned only, nothing was started" if plan_only else "there is no new database"
    summary = f"{name}: {text}" + "".join(f". {each}" for each in amiss)
    for each in amiss:
        run.note(each, "error")
    fact = {
        "outcome": outcome.value,
        "summary": summary,
        "state": text,
        "failed_task": failed[0] if failed else None,
        "at": datetime.now(UTC),
    }
    run.record([OutcomeFact.model_validate(fact)])
    kept = ledger.deployments.find(holder.dag_id, holder.run_id)
    if kept is not None:
        ledger.deployments.finish(holder.dag_id, holder.run_id, outcome, summary)
        store_evidence(run, kept.started_at, is_failed=bool(failed))
    return summary


def _settle(run: ChangeRun, plan: DatabaseRestorePlan) -> list[str]:
    environment, amiss = run.environment, []
    try:
        with open_session(environment.host(plan.host), str(environment.database.ssh_conn_id)) as session:
            if DatabaseRestore(environment, session, plan.key).discard(run.fence) == "removed":
                run.note("what was restored has no name, and is removed", host=plan.host)
            if plan.source == FILES:
                PointRestore(environment, session, plan.key).discard(run.fence)
    except OutsideSystemError as error:
        amiss.append(f"what was restored on {plan.host} could not be removed: {error}")
    return amiss
