"""Proving a backup set by restoring it: which set, where, and what its manifest says of the result."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from sebenza_ops.backup.comparison import differences
from sebenza_ops.backup.errors import BackupDamagedError, BackupFailedError, BackupRefusedError
from sebenza_ops.backup.jobs import await_job, database_login, job_key
from sebenza_ops.backup.plan import choose_host
from sebenza_ops.backup.projection import Projection, WalRate, lsn_bytes, project, wal_rate
from sebenza_ops.backup.steps import host_states, on_host, policy_of
from sebenza_ops.changes import ChangeRun
from sebenza_ops.evidence.facts import GateFact, OutcomeFact
from sebenza_ops.ledger import BackupKind, BackupSet
from sebenza_ops.run_evidence import store_evidence
from sebenza_ops.systems.object_store import ObjectStorage
from sebenza_ops.systems.restore_test import RestoreReport, RestoreTest
from sebenza_ops.systems.ssh import open_session

# So many earlier restore tests tell how much the rate varies.
EARLIER_TESTS = 10


class RestorePlan(BaseModel):
    """Which set is restored, on which host, up to which LSN and then to which that was now; what is known of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    job: str
    label: str
    host: str
    lsn: str
    now_lsn: str
    lsn_start: str
    manifest: str
    size_bytes: int
    repository_bytes: int
    wal: WalRate | None


def choose_set(present: list[BackupSet], wanted: str) -> BackupSet:
    """The set to restore: the one that is wanted, or the newest one. Raises BackupRefusedError.

    Args:
        present: The sets in the repository, the newest first.
        wanted: A label; empty for the newest.
    """
    if wanted:
        found = next((each for each in present if each.label == wanted), None)
        if found is None:
            known = ", ".join(each.label for each in present) or "none"
            raise BackupRefusedError(f"the catalog has no set {wanted!r} in the repository; there are: {known}")
    else:
        # Not "the newest good one": a newer one that was never verified is what is to be found out about.
        found = next((each for each in present if each.detail.get("manifest")), None)
        if found is None:
            raise BackupRefusedError("no set has a manifest yet: run backup_database to its end first")
    if not found.detail.get("manifest"):
        raise BackupRefusedError(f"{found.label} has no manifest, so nothing shows whether its restore is right")
    return found


def plan_restore_test(run: ChangeRun, wanted: str) -> RestorePlan:
    """Choose the set and the host. Raises BackupRefusedError with what to mend."""
    environment, policy = run.environment, policy_of(run.environment)
    chosen = choose_set(run.ledger.backup_sets.present(environment.name, BackupKind.PHYSICAL), wanted)
    states, unreachable = host_states(environment)
    host, primary, warnings = choose_host(policy, states, unreachable)
    for warning in warnings:
        run.note(warning, "warning")
    need = chosen.size_bytes + chosen.size_bytes // 10 + policy.minimum_free_bytes
    if host.free_bytes < need:
        raise BackupRefusedError(
            f"{host.host}: {host.free_bytes // 2**20} MiB free in {policy.work_dir}, {need // 2**20} MiB needed to "
            f"restore {chosen.label} beside the running database: make room, or move work_dir"
        )
    with (
        on_host(environment, primary.host) as (pgbackrest, server),
        on_host(environment, host.host) as (beside, _),
        ThreadPoolExecutor(1) as pool,
    ):
        now_lsn = server.wal_now()
        asked = pool.submit(beside.info)
        # Archives all that was written until now, and something after it: a restore stops where something follows.
        pgbackrest.check()
        info = asked.result()
    found = next((each for each in info.sets if each.label == chosen.label), None)
    if found is None:
        raise BackupRefusedError(f"{chosen.label} is in the catalog and not in the repository: run backup_database")
    oldest = info.sets[0]
    since = (oldest.lsn_stop, (datetime.now(UTC) - oldest.finished_at).total_seconds())
    plan = RestorePlan(
        environment=environment.name,
        job=f"{job_key(run.holder, run.clear_number)}-restore",
        label=chosen.label,
        host=host.host,
        lsn=str(chosen.detail["manifest_lsn"]),
        now_lsn=now_lsn,
        lsn_start=found.lsn_start,
        manifest=str(chosen.detail["manifest"]),
        size_bytes=chosen.size_bytes,
        repository_bytes=found.repository_bytes,
        wal=wal_rate(policy.restore_test, since, now_lsn),
    )
    run.note(f"restoring {plan.label} to {plan.lsn}, then to {now_lsn}, into a scratch instance", host=plan.host)
    return plan


def restore_set(run: ChangeRun, plan: RestorePlan) -> dict[str, Any]:
    """Restore, check and compare. Returns what was measured.

    Raises JobRunning; BackupFailedError when the restore fails; BackupDamagedError when it is not what was backed up.
    """
    environment, sets = run.environment, run.ledger.backup_sets
    manifest = ObjectStorage(environment.object_store).get_json(plan.manifest)
    if manifest is None:
        raise BackupDamagedError(f"the manifest {plan.manifest} is no longer in object storage")
    with open_session(environment.host(plan.host), database_login(environment)) as session:
        test = RestoreTest(environment, session)
        await_job(
            environment,
            environment.host(plan.host),
            plan.job,
            f"the restore of {plan.label}",
            lambda: test.start(run.fence, plan.job, plan.label, plan.lsn, plan.now_lsn, plan.size_bytes),
            test.status,
        )
        report = test.report(plan.job)
    wrong = differences(manifest["rows"], report.rows)
    if wrong:
        reason = f"restored to {plan.lsn}, it is not what was backed up: {'; '.join(wrong)}"
        sets.mark_bad(environment.name, BackupKind.PHYSICAL, plan.label, reason, run.holder)
        raise BackupDamagedError(f"{plan.label}: {reason}. Make a full backup now, and test that")
    if not report.rows:
        raise BackupFailedError(f"{plan.label} was restored, and no table has been counted")
    sets.mark_restored(environment.name, BackupKind.PHYSICAL, plan.label)
    present = sets.present(environment.name, BackupKind.PHYSICAL)
    measured = measurements(plan, report)
    projection = _projected(run, plan, report, present)
    _keep(run, present, plan.label, {**measured, "projection": asdict(projection)})
    text = (
        f"{plan.label} restored and checked: {len(report.rows)} tables, {sum(report.rows.values())} rows as in the "
        f"manifest at {plan.lsn}; {report.restored_bytes} B in {report.restore_seconds:.1f} s, "
        f"{measured['replayed_bytes']} B of WAL up to {plan.now_lsn} in {report.replay_seconds:.1f} s, "
        f"pg_amcheck{' and pg_checksums' if report.has_checksums else ''} in {report.check_seconds:.1f} s"
    )
    run.note(text, "success", host=plan.host)
    _tell_projection(run, projection)
    gate = f"{text}. {projection.text()}"
    run.record([GateFact(name=f"restore of {plan.label}", verdict="pass", detail=gate, at=datetime.now(UTC))])
    return {
        "label": plan.label,
        **measured,
        "projected_restore_seconds": projection.seconds,
        "projected_low_seconds": projection.low_seconds,
        "projected_high_seconds": projection.high_seconds,
        "projection_basis": list(projection.basis),
    }


def finish_restore_test(run: ChangeRun, failed: list[str], started_at: datetime) -> str:
    """Record how the run ended, and store its evidence: what was restored, what is projected, and from what.

    Returns the summary.
    """
    name = run.environment.name
    summary = f"backups of {name}: the set was restored and proven"
    if failed:
        summary = f"backups of {name} are not proven: {failed[0]} failed, its log says why. No backup was changed"
    outcome = OutcomeFact.model_validate(
        {
            "outcome": "failed" if failed else "succeeded",
            "summary": summary,
            "failed_task": failed[0] if failed else None,
            "at": datetime.now(UTC),
        }
    )
    run.record([outcome])
    store_evidence(run, started_at, is_failed=bool(failed))
    return summary


def measurements(plan: RestorePlan, report: RestoreReport) -> dict[str, Any]:
    """What a restore has shown, as numbers."""
    return {
        "restore_seconds": report.restore_seconds,
        "replay_seconds": report.replay_seconds,
        "check_seconds": report.check_seconds,
        "restored_bytes": report.restored_bytes,
        "resident_bytes": report.resident_bytes,
        "bytes_per_second": report.bytes_per_second,
        "replayed_bytes": lsn_bytes(plan.now_lsn) - lsn_bytes(plan.lsn_start),
        "compression_ratio": report.restored_bytes / max(plan.repository_bytes, 1),
    }


def _projected(run: ChangeRun, plan: RestorePlan, report: RestoreReport, present: Sequence[BackupSet]) -> Projection:
    measured = measurements(plan, report)
    earlier = [
        float(each.detail["restore_test"]["bytes_per_second"])
        for each in present
        if each.label != plan.label and "restore_test" in each.detail
    ]
    return project(
        policy_of(run.environment).restore_test,
        report,
        compression_ratio=measured["compression_ratio"],
        replayed_bytes=measured["replayed_bytes"],
        wal=plan.wal,
        earlier_rates=earlier[:EARLIER_TESTS],
    )


def _keep(run: ChangeRun, present: Sequence[BackupSet], label: str, measured: dict[str, Any]) -> None:
    own = next((each for each in present if each.label == label), None)
    if own is not None:
        run.ledger.backup_sets.record(replace(own, detail={"restore_test": measured}))


def _tell_projection(run: ChangeRun, projection: Projection) -> None:
    objective = run.environment.policies.objectives.rto_seconds
    text = projection.text()
    if projection.seconds is None or projection.high_seconds is None or projection.high_seconds <= objective:
        run.note(text)
    elif projection.seconds > objective:
        run.tell_warning(f"the database can't come back within the objective of {objective} s; {text}")
    else:
        run.tell_warning(f"the database may not come back within the objective of {objective} s; {text}")
