"""The rows of every table at one moment, and the dump of that moment: made, proven, sent."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.backup.errors import BackupFailedError
from sebenza_ops.backup.jobs import await_job
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.backup.repository_steps import begin_reading, verification_job
from sebenza_ops.backup.steps import on_host, policy_of
from sebenza_ops.changes import ChangeRun
from sebenza_ops.environments.models import Environment
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.systems.backup_host import BackupHost, DumpReport, Manifest
from sebenza_ops.systems.database_restore import MANIFEST, dump_prefix
from sebenza_ops.systems.errors import FencedOffError, OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import PgBackRest

# A snapshot takes a moment; one that takes longer waits for something, and the verification does not wait with it.
SNAPSHOT_WAIT_SECONDS = 20.0
POLL_SECONDS = 0.2


def tables_missing(manifest: Manifest, dump: DumpReport) -> list[str]:
    """Tables whose rows were counted, and that the dump does not hold."""
    return sorted(set(manifest.rows) - dump.tables)


def dump_database(run: ChangeRun, plan: BackupPlan, label: str) -> dict[str, Any]:
    """Count and dump in one snapshot, send it with its manifest. Returns the manifest's key and what was counted.

    Raises JobRunning; BackupFailedError; OutsideSystemError when an upload is not what was sent.
    """
    environment, job = run.environment, f"{plan.job}-dump"
    storage, prefix = ObjectStorage(environment.object_store), dump_prefix(run.environment.name, label)
    with on_host(environment, plan.host) as (pgbackrest, host):

        def start() -> str:
            state = host.start_dump(run.fence, job)
            begin_verification(run, plan, pgbackrest, host)
            return state

        await_job(
            environment,
            environment.host(plan.host),
            job,
            "the dump" if policy_of(environment).logical_dump else "counting the rows",
            start,
            host.status,
        )
        manifest, dump = host.manifest(job), host.dump_report(job)
        # Only begun when all that the manifest needs was in the repository.
        is_archived = pgbackrest.status(verification_job(plan, manifest.lsn)).state != "absent"
        pieces = [(piece, f"{prefix}dump/{piece.name}{_part(piece.offset)}") for piece in dump.pieces]
        if policy_of(environment).logical_dump:
            missing = tables_missing(manifest, dump)
            if missing:
                raise BackupFailedError(f"the dump lacks tables that were counted: {', '.join(missing)}")
            host.upload(storage, job, pieces)
    for piece, key in pieces:
        stored = storage.size_bytes(key)
        if stored != piece.size_bytes:
            raise BackupFailedError(f"{key} has {stored} bytes in object storage, expected {piece.size_bytes}")
    if not is_archived:
        archive_until_now(environment, plan)
    # The manifest is written last: only with it does the dump exist.
    document = manifest_document(run, plan, label, manifest, dump, dict((key, asdict(piece)) for piece, key in pieces))
    text = json.dumps(document, indent=1).encode()
    storage.put_bytes(prefix + MANIFEST, text, "application/json")
    if storage.get_bytes(prefix + MANIFEST) != text:
        raise BackupFailedError(f"{prefix + MANIFEST} is not what was sent")
    _keep(run, plan, label, prefix, manifest, dump)
    return {"manifest": prefix + MANIFEST, "tables": len(manifest.rows), "rows": sum(manifest.rows.values())}


def archive_until_now(environment: Environment, plan: BackupPlan) -> None:
    """Archive something beyond the manifest's LSN: a restore can only stop at what something comes after."""
    with on_host(environment, plan.primary) as (pgbackrest, _):
        pgbackrest.check()


def begin_verification(run: ChangeRun, plan: BackupPlan, pgbackrest: PgBackRest, host: BackupHost) -> None:
    """Let the repository be read back beside the dump, once the WAL that its manifest needs is there as well.

    The next step waits for its end; it begins what could not be begun here. Raises FencedOffError.
    """
    try:
        lsn = _await_snapshot(host, f"{plan.job}-dump")
        if lsn is None or pgbackrest.status(verification_job(plan, lsn)).state != "absent":
            return
        archive_until_now(run.environment, plan)
        begin_reading(run, pgbackrest, verification_job(plan, lsn))
        run.note("the repository is being read back beside the dump", host=plan.host)
    except FencedOffError:
        raise
    except OutsideSystemError as error:
        run.note(f"the repository is read back after the dump, not beside it: {error}", "warning", host=plan.host)


def _await_snapshot(host: BackupHost, job: str) -> str | None:
    until = time.monotonic() + SNAPSHOT_WAIT_SECONDS
    while (lsn := host.snapshot_lsn(job)) is None:
        if time.monotonic() >= until or host.status(job).state != "running":
            return None
        time.sleep(POLL_SECONDS)
    return lsn


def _part(offset: int) -> str:
    return f".from-{offset:015d}" if offset else ""


def manifest_document(
    run: ChangeRun, plan: BackupPlan, label: str, manifest: Manifest, dump: DumpReport, objects: dict[str, Any]
) -> dict[str, Any]:
    """What a restore is compared with, as JSON."""
    return {
        "environment": run.environment.name,
        "database": manifest.database,
        "backup": label,
        "host": plan.host,
        "at": manifest.at.astimezone(UTC).isoformat(),
        "lsn": manifest.lsn,
        "system_identifier": manifest.system_identifier,
        "server_version": manifest.server_version,
        "size_bytes": manifest.size_bytes,
        "schema_revision": manifest.schema_revision,
        "rows": dict(manifest.rows),
        "made_with": dump.made_with,
        "entries": dump.entries,
        "objects": objects,
    }


def _keep(run: ChangeRun, plan: BackupPlan, label: str, prefix: str, manifest: Manifest, dump: DumpReport) -> None:
    sets, name = run.ledger.backup_sets, run.environment.name
    made = sets.find(name, BackupKind.PHYSICAL, label)
    if made is not None:
        from dataclasses import replace

        detail = {
            "manifest": prefix + MANIFEST,
            "schema_revision": manifest.schema_revision,
            "manifest_lsn": manifest.lsn,
        }
        sets.record(replace(made, detail=detail, made_by=run.holder))
    counted = (
        f"{sum(manifest.rows.values())} rows in {len(manifest.rows)} tables, schema revision {manifest.schema_revision}"
    )
    if policy_of(run.environment).logical_dump is None:
        run.note(f"counted at {manifest.lsn}: {counted}", "success", host=plan.host)
        return
    sets.record(
        BackupSet(
            environment=name,
            kind=BackupKind.LOGICAL,
            label=label,
            backup_type="dump",
            started_at=manifest.at,
            finished_at=datetime.now(UTC),
            size_bytes=manifest.size_bytes,
            stored_bytes=dump.size_bytes,
            detail={"manifest": prefix + MANIFEST, "job": plan.job, "host": plan.host, "lsn": manifest.lsn},
            made_by=run.holder,
        )
    )
    # Read to its end on the host, and read back from object storage.
    sets.mark_verified(name, BackupKind.LOGICAL, [label])
    run.note(
        f"dumped in {dump.seconds:.0f} s and read back: {dump.size_bytes} bytes, {dump.entries} entries; {counted}",
        "success",
        host=plan.host,
    )
