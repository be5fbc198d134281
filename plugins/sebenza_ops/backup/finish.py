"""After a backup that was verified: what is old goes, and how much would be lost now is measured and told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from sebenza_ops.backup import hold, watch
from sebenza_ops.backup.jobs import await_job
from sebenza_ops.backup.plan import BackupPlan
from sebenza_ops.backup.retention import dumps_to_delete, reason_to_keep
from sebenza_ops.backup.steps import catalog_follows, on_host
from sebenza_ops.changes import ChangeRefusedError, ChangeRun
from sebenza_ops.ledger import BackupKind
from sebenza_ops.systems.database_restore import DUMPS_PREFIX, MANIFEST, dump_prefix
from sebenza_ops.systems.errors import OutsideSystemError
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.pgbackrest import RepositoryInfo
from sebenza_ops.systems.ssh import Fence


def finish_backup(run: ChangeRun, plan: BackupPlan, label: str, older_problems: list[str]) -> dict[str, Any]:
    """Remove what the policy does not keep, measure the recovery point, complete the catalog, and tell what is amiss.

    Raises JobRunning while pgBackRest removes sets.
    """
    warnings = [*plan.warnings, *older_problems]
    point = watch.look(run, remove_old(run, plan, label, warnings))
    missed = watch.tell(run, point)
    seconds = point.seconds(point.checked_at)
    made = run.ledger.backup_sets.find(run.environment.name, BackupKind.PHYSICAL, label)
    if made is not None:
        run.ledger.backup_sets.record(replace(made, detail={"rpo_seconds": seconds, "rpo_reason": point.reason}))
    if warnings:
        run.tell_warning("; ".join(warnings))
    return {
        "environment": run.environment.name,
        "label": label,
        "type": plan.backup_type,
        "rpo_seconds": seconds,
        "warnings": [*warnings, *([missed] if missed else [])],
    }


def remove_old(run: ChangeRun, plan: BackupPlan, label: str, warnings: list[str]) -> RepositoryInfo | None:
    """Remove what the policy does not keep, unless somebody restores just now: the next backup does it then.

    Returns what is in the repository afterwards, if it was asked. Raises JobRunning while pgBackRest removes sets.
    """
    left = None
    try:
        with hold.removal(run) as held:
            left = expire_sets(run, held.fence, plan, label, warnings)
            try:
                delete_dumps(run, plan)
            except OutsideSystemError as error:
                # What is too old costs space; it is no reason to call a verified backup a failure.
                warnings.append(f"old dumps could not be removed: {error}")
    except ChangeRefusedError as error:
        warnings.append(f"nothing that is too old was removed: {error}. The next backup does it")
        run.note(warnings[-1], "warning")
    return left


def expire_sets(
    run: ChangeRun, fence: Fence, plan: BackupPlan, label: str, warnings: list[str]
) -> RepositoryInfo | None:
    """Let pgBackRest remove sets and WAL that are older than the policy keeps, unless the last good one would go.

    Args:
        run: The run.
        fence: Of the lease of the environment's sets, which a restore holds while it reads one.
        plan: What is backed up.
        label: The set that was made.
        warnings: Takes what is to be told.

    Returns what is left in the repository; None when nothing was removed.
    """
    environment, days = run.environment, run.environment.policies.retention.backups_days
    job = f"{plan.job}-expire"
    with on_host(environment, plan.host) as (pgbackrest, host):
        host.raise_token(run.fence)
        clock = host.clock()
        if clock.is_wrong:
            warnings.append(f"no set was removed: {clock.words}, and pgBackRest would count their ages by it")
            run.note(warnings[-1], "warning")
            return None
        with on_host(environment, plan.host) as (beside, _), ThreadPoolExecutor(1) as pool:
            asked = pool.submit(beside.expiring, days)
            info = pgbackrest.info()
            expiring = asked.result()
        present = catalog_follows(run, info, "not in the repository")
        reason = reason_to_keep(expiring, present, info.chain(label))
        if reason:
            warnings.append(f"nothing was removed, although {', '.join(expiring) or 'nothing'} is due: {reason}")
            run.note(warnings[-1], "warning")
            return None
        # Without a set that is due, too: WAL from before the oldest set goes.
        await_job(
            environment,
            environment.host(plan.host),
            job,
            "the expiration",
            lambda: pgbackrest.start_expire(fence, job, days),
            pgbackrest.status,
        )
        left = pgbackrest.info()
    if not set(info.chain(label)) <= {each.label for each in left.sets}:
        raise OutsideSystemError(f"the expiration has removed {label} or what it needs", host=plan.host)
    catalog_follows(run, left, f"expired after {days} days")
    if expiring:
        run.note(f"expired after {days} days: {', '.join(expiring)}")
    return left


def delete_dumps(run: ChangeRun, plan: BackupPlan) -> None:
    """Delete dumps that are older than the policy keeps, from object storage and host; never the newest good one."""
    environment, sets = run.environment, run.ledger.backup_sets
    retention, name = environment.policies.retention, environment.name
    present = sets.present(name, BackupKind.LOGICAL)
    storage = ObjectStorage(environment.object_store)
    keys = storage.keys(f"{DUMPS_PREFIX}{name}/")
    for old in dumps_to_delete(present, retention.backups_days, datetime.now(UTC)):
        prefix = dump_prefix(name, old.label)
        # The manifest first: a removal that is killed leaves nothing that looks whole.
        for key in sorted((key for key in keys if key.startswith(prefix)), key=lambda key: not key.endswith(MANIFEST)):
            storage.delete(key)
            keys.pop(key)
        run.note(f"the dump of {old.label} is deleted after {retention.backups_days} days")
    whole = {
        key.removeprefix(f"{DUMPS_PREFIX}{name}/").partition("/")[0] for key in keys if key.endswith(f"/{MANIFEST}")
    }
    left = [each for each in present if each.label in whole]
    sets.reconcile(name, BackupKind.LOGICAL, left, "no manifest in object storage", run.holder.actor)
    newest = next((each for each in sets.present(name, BackupKind.LOGICAL) if each.is_good), None)
    kept = [plan.job, *([str(newest.detail.get("job"))] if newest and newest.detail.get("job") else [])]
    with on_host(environment, plan.host) as (_, host):
        removed = host.prune(run.fence, retention.local_backups_days, kept)
    if removed:
        run.note(
            f"{len(removed)} local dumps and logs older than {retention.local_backups_days} days removed",
            host=plan.host,
        )
